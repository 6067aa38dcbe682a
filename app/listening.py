"""Listens on the port before anything else is touched, so that a start on a taken port leaves no trace."""

import errno
import socket
from typing import Any

BACKLOG = 4096


class CannotListen(Exception):
    """`HOST` and `PORT` cannot be listened on; the message is the one line for the operator."""


class PortTaken(CannotListen):
    """Another process listens on the port."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`; where `port` is 0, on one free port of them all.

    They listen at once, since a port that is only bound can be bound by another process too. Who connects before the
    service is ready waits.

    Raises:
        PortTaken: another process has the port.
        CannotListen: there is no such address here, or this user may not listen on it.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            sock = _listening(family, (address[0], port, *address[2:]))
            if sock is not None:
                sockets.append(sock)
                port = sock.getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        kind = PortTaken if error.errno == errno.EADDRINUSE else CannotListen
        raise kind(f"HOST={host} PORT={port}: cannot listen there: {error.strerror}") from None
    if not sockets:
        raise CannotListen(f"HOST={host}: this machine has no such address")
    return sockets


def url(sock: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"http://{host}:{port}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise CannotListen(f"HOST={host}: this is not a host name") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listening(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket | None:
    """Listens; None if this machine has no such address: `localhost` may name one of IPv6 that it lacks."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the service before may have left connections
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return sock
