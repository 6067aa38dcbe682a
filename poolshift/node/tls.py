"""TLS between the service and an agent, with the certificates of Ray's own connections.

Workers and the service read and write sockets that know nothing of TLS. So each side has a tunnel between the
connection and a pair of sockets. What goes through it are records: four bytes with the length, then so many bytes. An
empty record is the end of one direction, which TLS itself cannot end alone.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MAX_RECORD_BYTES = 256 * 1024
_NAMES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


class TlsFiles(NamedTuple):
    """The files of Ray's variables `RAY_TLS_SERVER_CERT`, `RAY_TLS_SERVER_KEY` and `RAY_TLS_CA_CERT`."""

    certificate: str
    key: str
    authority: str


class Tls:
    """The contexts of both sides, each of which shows its certificate, and the tunnels that are open."""

    def __init__(self, files: TlsFiles) -> None:
        """Reads the files.

        Raises:
            OSError: one cannot be read, or is none of a certificate or of its key.
        """
        # No default contexts: from Python 3.13 on they refuse certificates that Ray's own connections take.
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.verify_mode = ssl.CERT_REQUIRED
        self._client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (self._server, self._client):
            load_files(context, files)
        self._tunnels: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Tls tunnels={len(self._tunnels)}>"

    async def to_agent(self, sock: socket.socket, host: str) -> socket.socket:
        """Takes over a connection to an agent; returns the socket to use in its place.

        Raises:
            OSError: the agent does not show a certificate of the authority for `host`, or does not take ours.
        """
        loop, reader, protocol = _stream()
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock, ssl=self._client, server_hostname=host)
        return self._inner_end(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def from_service(self, sock: socket.socket) -> socket.socket:
        """Takes over a connection that an agent has accepted; returns the socket to use in its place.

        Raises:
            OSError: the other side shows no certificate of the authority, or does not take ours.
        """
        loop, reader, protocol = _stream()
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self._server)
        return self._inner_end(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    def _inner_end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> socket.socket:
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        tunnel = asyncio.get_running_loop().create_task(_tunnel(outer, reader, writer))
        self._tunnels.add(tunnel)

        # Not at the end of the tunnel's own code: a task that is cancelled before it begins runs none of it.
        def ended(_: "asyncio.Task[None]") -> None:
            self._tunnels.discard(tunnel)
            writer.transport.abort()
            outer.close()

        tunnel.add_done_callback(ended)
        return inner


def tls_files(environment: Mapping[str, str]) -> TlsFiles | None:
    """The files of the TLS that Ray's variables ask for; None if they ask for none.

    Raises:
        ValueError: a variable is missing.
    """
    if environment.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    missing = [name for name in _NAMES if name not in environment]
    if missing:
        raise ValueError(f"RAY_USE_TLS needs {', '.join(missing)}")
    return TlsFiles(*(environment[name] for name in _NAMES))


def load_files(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Has a context show the certificate, and trust the authority alone.

    Raises:
        OSError: a file cannot be read, or is none of a certificate or of its key; the message names the variable.
    """
    certificate, key, authority = (f"{name}={path}" for name, path in zip(_NAMES, files, strict=True))
    for named, path in zip((certificate, key, authority), files, strict=True):
        _see_that_it_can_be_read(named, path)
    try:
        context.load_verify_locations(files.authority)
    except ssl.SSLError as error:
        raise OSError(f"{authority}: {error.reason or error}") from None
    try:
        context.load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as error:
        raise OSError(f"{certificate}, {key}: {error.reason or error}") from None


def _see_that_it_can_be_read(named: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise OSError(f"{named}: {error.strerror}") from None


def tls_of(environment: Mapping[str, str]) -> Tls | None:
    """The TLS that Ray's variables ask for; None if they ask for none.

    Raises:
        OSError: a file cannot be read, or is none of a certificate or of its key.
        ValueError: a variable is missing.
    """
    files = tls_files(environment)
    return None if files is None else Tls(files)


def _stream() -> "tuple[asyncio.AbstractEventLoop, asyncio.StreamReader, asyncio.StreamReaderProtocol]":
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(MAX_RECORD_BYTES, loop=loop)
    return loop, reader, asyncio.StreamReaderProtocol(reader, loop=loop)


async def _tunnel(sock: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries bytes both ways until both have ended, or one is broken: then both sides see the end."""
    loop = asyncio.get_running_loop()
    ways = {loop.create_task(_outwards(sock, writer)), loop.create_task(_inwards(reader, sock))}
    try:
        done, unfinished = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        if not unfinished and all(way.exception() is None for way in done):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _outwards(sock: socket.socket, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, MAX_RECORD_BYTES):
        writer.write(len(data).to_bytes(4, "big"))
        writer.write(data)
        await writer.drain()
    writer.write(bytes(4))
    await writer.drain()


async def _inwards(reader: asyncio.StreamReader, sock: socket.socket) -> None:
    """Raises OSError or EOFError if the connection is broken, or sends what is no record."""
    loop = asyncio.get_running_loop()
    while length := int.from_bytes(await reader.readexactly(4), "big"):
        if length > MAX_RECORD_BYTES:
            raise ConnectionError(f"a record claims {length} bytes")
        await loop.sock_sendall(sock, await reader.readexactly(length))
    sock.shutdown(socket.SHUT_WR)
