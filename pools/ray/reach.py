"""Looks at what answers at the address of a cluster: Ray itself waits half a minute, whatever keeps it from joining."""

import socket
import ssl
from collections.abc import Mapping
from typing import Final

from poolshift.node.tls import TlsFiles, load_files, tls_files

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
        kind = _kind_with_tls(connection, context, where) if context else _kind(connection)
    if kind != _SETTINGS:
        raise NotReached(
            f"{where} does not answer as a Ray head does: it is another port"
            + ("" if context else ", or the cluster has RAY_USE_TLS")
        )


def _kind_with_tls(connection: socket.socket, context: ssl.SSLContext, where: str) -> int | None:
    """As `_kind`. Raises NotReached if the two do not agree about TLS, or one refuses the other's certificate."""
    try:
        encrypted = context.wrap_socket(connection)
    except ssl.SSLCertVerificationError as error:
        raise NotReached(f"{where}: its certificate is refused: {error.verify_message} (RAY_TLS_CA_CERT)") from None
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):  # the other side's last word
            raise NotReached(_refusal(where)) from None
        raise NotReached(
            f"{where} has no TLS, and RAY_USE_TLS is set here: it is another port, or a cluster without"
        ) from None
    with encrypted:
        kind = _kind(encrypted)
    if kind is None:  # from TLS 1.3 on a server looks at the client's certificate after the handshake
        raise NotReached(_refusal(where))
    return kind


def _refusal(where: str) -> str:
    return f"{where} refuses the certificate in RAY_TLS_SERVER_CERT: it may have expired, or be of another authority"


def _context(files: TlsFiles) -> ssl.SSLContext:
    """A context that asks for a certificate of the authority, for whatever name: the name is for Ray to judge."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    load_files(context, files)
    context.set_alpn_protocols(["h2"])
    return context


def _kind(connection: socket.socket) -> int | None:
    """The type of the first frame of HTTP/2 that the server sends; None if it sends none."""
    header = b""
    try:
        connection.sendall(_PREFACE + _NO_SETTINGS)
        while len(header) < _FRAME_HEADER_BYTES:
            part = connection.recv(_FRAME_HEADER_BYTES - len(header))
            if not part:
                return None
            header += part
    except OSError:
        return None
    return header[3]
