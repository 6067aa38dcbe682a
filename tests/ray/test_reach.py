"""Looks at an address at which no cluster answers as it should, against real servers of gRPC."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pools.ray.reach import NotReached, look
from tests.ray.agents import issue_certificates

grpc = pytest.importorskip("grpc")


@contextmanager
def head(certificates: dict[str, str]) -> Iterator[str]:
    """A gRPC server without services, and with TLS if there are certificates; its address."""
    server = grpc.server(ThreadPoolExecutor(1))
    if certificates:
        names = ("RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT", "RAY_TLS_CA_CERT")
        key, certificate, authority = (Path(certificates[name]).read_bytes() for name in names)
        credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    """Ray's variables of the cluster."""
    return issue_certificates(tmp_path)


def test_a_head_that_answers(certificates: dict[str, str]) -> None:
    """With TLS and without."""
    for variables in ({}, certificates):
        with head(variables) as address:
            look(address, variables)


def test_nobody_listens(certificates: dict[str, str]) -> None:
    """A closed port, whatever the certificates; and a name that nobody has."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for variables in ({}, certificates):
            with pytest.raises(NotReached, match=f"RAY_ADDRESS={address} cannot be reached: Connection refused"):
                look(address, variables)
    with pytest.raises(NotReached, match="cannot be reached"):
        look("head.invalid:6379", {})


def test_one_side_alone_has_tls(certificates: dict[str, str]) -> None:
    """Each way round the line names the setting that differs."""
    with head(certificates) as address, pytest.raises(NotReached, match="or the cluster has RAY_USE_TLS"):
        look(address, {})
    with head({}) as address, pytest.raises(NotReached, match="has no TLS, and RAY_USE_TLS is set here"):
        look(address, certificates)


def test_certificates_of_two_authorities(certificates: dict[str, str], foreign: dict[str, str]) -> None:
    """The service does not trust the head, or the head does not trust the service."""
    with head(certificates) as address:
        with pytest.raises(NotReached, match="its certificate is refused: "):
            look(address, foreign)
        with pytest.raises(NotReached, match="refuses the certificate in RAY_TLS_SERVER_CERT"):
            look(address, foreign | {"RAY_TLS_CA_CERT": certificates["RAY_TLS_CA_CERT"]})


def test_certificates_that_are_missing(certificates: dict[str, str]) -> None:
    """Before any connection."""
    with pytest.raises(NotReached, match="cannot be used: RAY_USE_TLS needs RAY_TLS_SERVER_CERT"):
        look("127.0.0.1:1", {"RAY_USE_TLS": "1"})
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        with pytest.raises(NotReached, match=f"cannot be used: {name}=/nowhere: No such file"):
            look("127.0.0.1:1", certificates | {name: "/nowhere"})


def test_certificates_that_are_none(certificates: dict[str, str], foreign: dict[str, str], tmp_path: Path) -> None:
    """A file without one, and a key of another; the line names the variable."""
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for name, value in (("RAY_TLS_CA_CERT", str(nonsense)), ("RAY_TLS_SERVER_KEY", foreign["RAY_TLS_SERVER_KEY"])):
        with pytest.raises(NotReached, match=f"cannot be used: .*{name}={value}: "):
            look("127.0.0.1:1", certificates | {name: value})


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_another_service_listens(said: bytes) -> None:
    """One that ends the connection, or answers in another protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(said)

        answered = thread.submit(answer)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(NotReached, match="does not answer as a Ray head"):
            look(address, {})
        answered.result(10)


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look ends by its own time."""
    monkeypatch.setattr("pools.ray.reach.TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(NotReached, match="does not answer as a Ray head"),
    ):
        look(f"127.0.0.1:{server.getsockname()[1]}", {})
