"""Looks at what answers at the address of a cluster: Ray itself waits half a minute, whatever keeps it from joining."""

import socket
import ssl
from collections.abc import Mapping
from typing import Final

from poolshift.node.tls import TlsFiles, tls_files

TIMEOUT_S: Final = 5.0
"""The longest time for each step: the connection, the handshake, the answer."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS: Final = 4
_NO_SETTINGS: Final = bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
_FRAME_HEADER_BYTES: Final = 9


class NotReached(Exception):
    """No head of a Ray cluster answers; the message says what is known of the reason."""


def look(address: str, environment: Mapping[str, str]) -> None:
    """Opens a connection as Ray will (gRPC, so HTTP/2: RFC 9113, section 3.4) and closes it.

    Args:
        address: host and port of the head.
        environment: has Ray's variables for TLS.

    Raises:
        NotReached: nothing listens there, it is no gRPC server, or the two disagree about TLS or a certificate.
    """
    try:
        files = tls_files(environment)
        context = None if files is None else _context(files)
    except (OSError, ValueError) as error:
        raise NotReached(f"the certificates of RAY_USE_TLS cannot be used: {error}") from None
    host, _, port = address.rpartition(":")
    where = f"RAY_ADDRESS={address}"
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S)
    except OSError as error:
        raise NotReached(f"{where} cannot be reached: {error.strerror or error}") from None
    with connection:
        try:
            kind = _first_frame(connection, context)
        except OSError as error:
            raise NotReached(f"{where}, with RAY_USE_TLS: {_reason(error)}" if context else _no_ray(where)) from None
    if kind != _SETTINGS:
        raise NotReached(_no_ray(where))


def _context(files: TlsFiles) -> ssl.SSLContext:
    """A context that asks for a certificate of the authority, for whatever name: the name is for Ray to judge."""
    context = ssl.create_default_context(cafile=files.authority)
    context.check_hostname = False
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    return context


def _first_frame(connection: socket.socket, context: ssl.SSLContext | None) -> int | None:
    """The type of the first frame of HTTP/2 that the server sends; None if it ends the connection."""
    if context is not None:
        with context.wrap_socket(connection) as encrypted:
            return _first_frame(encrypted, None)
    connection.sendall(_PREFACE + _NO_SETTINGS)
    header = b""
    while len(header) < _FRAME_HEADER_BYTES:
        part = connection.recv(_FRAME_HEADER_BYTES - len(header))
        if not part:
            return None
        header += part
    return header[3]


def _no_ray(where: str) -> str:
    return f"{where} does not answer as a Ray head without TLS does: it is another port, or the cluster has RAY_USE_TLS"


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return error.strerror or str(error)
