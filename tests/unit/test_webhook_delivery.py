"""A delivery to a URL that a client chose: to the address that was checked, and to nobody else."""

import asyncio
import datetime
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from config.webhook_allow import WebhookAllow
from routing.webhooks.delivery import post
from routing.webhooks.request import Request

pytestmark = pytest.mark.anyio

NAME = "hooks.example.com"
REQUEST = Request({"content-type": "application/json"}, b"{}")


def certificate(path: Path, name: str) -> None:
    """A key and a certificate that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(encoding))


class TLSReceiver:
    """An HTTPS server on 127.0.0.1 that notes the requests."""

    def __init__(self, path: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(path)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.requests: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(connection, server_side=True) as secured:
                    self.requests.append(_whole_request(secured))
                    secured.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            except OSError:
                continue

    def close(self) -> None:
        self._socket.close()


def _whole_request(connection: ssl.SSLSocket) -> bytes:
    """Reads a request to its end: what is unread when a connection closes resets it, and loses the answer."""
    request = b""
    while chunk := connection.recv(65536):
        request += chunk
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length is not None and len(body) >= int(length[1]):
            break
    return request


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TLSReceiver]:
    path = tmp_path / "certificate.pem"
    certificate(path, NAME)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # a proxy would resolve the name again
    receiver = TLSReceiver(path)
    yield receiver
    receiver.close()


def resolves(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Has each look-up answered by the next of `answers`; returns the names that are looked up."""
    asked: list[str] = []
    left = list(answers)

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        try:
            ipaddress.ip_address(host)
            addresses = [host]
        except ValueError:
            asked.append(host)
            addresses = left.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    return asked


async def test_the_connection_goes_to_the_address_that_was_checked(
    receiver: TLSReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look-up, no proxy, the certificate of the name, and forbidden addresses passed over."""
    allow = WebhookAllow.parse(f"{NAME}:*, 127.0.0.1/32")
    asked = resolves(monkeypatch, ["169.254.169.254", "127.0.0.1"], ["10.0.0.1"])
    answer = await post(f"https://{NAME}:{receiver.port}/hook", REQUEST, allow)
    assert answer.status == 204, answer.problem
    assert asked == [NAME]
    (request,) = receiver.requests
    assert request.startswith(b"POST /hook HTTP/1.1\r\n")
    assert f"host: {NAME}:{receiver.port}\r\n".encode() in request.lower()


async def test_a_name_that_leads_inside_is_not_followed(receiver: TLSReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is connected to, although the name is listed."""
    resolves(monkeypatch, ["127.0.0.1", "::1", "10.0.0.1"])
    answer = await post(f"https://{NAME}:{receiver.port}/hook", REQUEST, WebhookAllow.parse(f"{NAME}:*"))
    assert answer.status is None
    assert "WEBHOOK_ALLOW" in answer.problem
    assert receiver.requests == []


async def test_another_name_is_not_believed(receiver: TLSReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is checked for the name of the URL, not for the address."""
    resolves(monkeypatch, ["127.0.0.1"])
    allow = WebhookAllow.parse("other.example.com:*, 127.0.0.1/32")
    answer = await post(f"https://other.example.com:{receiver.port}/hook", REQUEST, allow)
    assert answer.status is None
    assert receiver.requests == []


@pytest.mark.parametrize("answers", [[], ["127.0.0.1"]])
async def test_a_receiver_that_is_not_there(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    resolves(monkeypatch, answers)
    answer = await post(f"https://{NAME}:1/hook", REQUEST, WebhookAllow.parse(f"{NAME}:*, 127.0.0.1/32"))
    assert answer.status is None
