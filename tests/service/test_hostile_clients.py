"""Clients that mean harm, against a real service: none holds what others need."""

import json
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from config.api_keys import KeyFile, Scope, StoredKey, hash_key, new_key
from tests.conftest import StartService
from tests.support.service import POOLSHIFT, SEES_OPEN_FILES, Service
from tests.support.waiting import wait_until

HEAD = "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{}content-length: {}\r\n\r\n"


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def head_of_answer(sock: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(4096)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data.decode()


@pytest.mark.parametrize("path", ["/programs/p/execute", "/programs", "/rollout/rollback"])
def test_a_stranger_is_told_so_before_his_body_is_here(start_service: StartService, path: str, tmp_path: Path) -> None:
    """He gets 401 with a body of which nothing arrives, and for one that is no JSON."""
    stored = StoredKey(name="someone", hash=hash_key(new_key()), scopes=frozenset({Scope.ADMIN}))
    keys = tmp_path / "keys.json"
    keys.write_text(KeyFile(keys=(stored,)).model_dump_json())
    service = start_service(API_KEYS_FILE=keys)
    for body in ("", "not JSON", "[" * 1000):
        with connect(service) as sock:
            sock.sendall((HEAD.format(path, "", len(body) or 1000) + body).encode())
            answer = head_of_answer(sock)
            assert answer.startswith("HTTP/1.1 401 ")
            assert "www-authenticate: Bearer" in answer


def test_a_byte_behind_a_call_does_not_keep_its_worker_busy(start_service: StartService, tmp_path: Path) -> None:
    """The worker is free once the client has left, on the lane and by uvicorn, whatever bytes follow the call."""
    service = start_service(POOL_VERSION="v2", V1_POOL_SIZE=1, V2_POOL_SIZE=1)
    program = service.create("hold", {"directory": "string", "name": "string"})
    for count, (more, behind) in enumerate([("", "X"), ("connection: close\r\n", "X"), ("", "GET / HTTP/1.1\r\n\r\n")]):
        body = json.dumps({"inputs": {"directory": str(tmp_path), "name": f"call{count}"}})
        with connect(service) as sock:
            head = HEAD.format(f"/programs/{program}/execute", more, len(body))
            sock.sendall((head + body + behind).encode())
            wait_until(lambda count=count: bool(list(tmp_path.glob(f"call{count}.*"))), "the call runs")  # type: ignore[misc]
        wait_until(lambda: service.pool("v2")["busy"] == 0, "its worker is free")


@SEES_OPEN_FILES
def test_answers_that_nobody_reads_are_dropped(start_service: StartService) -> None:
    """The memory that they take is given back, and the service goes on."""
    service = start_service(POOL_VERSION="v2", ANSWER_TIMEOUT_S=1, MAX_UNREAD_BYTES=1024 * 1024)
    program = service.create("echo", {"nonce": "string"})
    body = json.dumps({"inputs": {"nonce": "x" * 900_000}})
    request = (HEAD.format(f"/programs/{program}/execute", "", len(body)) + body).encode()
    greedy = [connect(service) for _ in range(10)]
    for sock in greedy:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(8):
            try:
                sock.sendall(request)
            except OSError:
                break

    def connections() -> int:
        assert service.process is not None
        found = psutil.Process(service.process.pid).net_connections("tcp")
        return sum(one.laddr.port == service.port for one in found)  # a pool on Ray has others

    wait_until(lambda: "a client did not read its answer" in service.log(), "an answer is dropped")
    wait_until(lambda: connections() <= 4, "the connections are closed")
    assert service.execute(program, inputs={"nonce": "a"}).status_code == 200
    for sock in greedy:
        sock.close()


@pytest.mark.parametrize("descriptors", [128, 256])
def test_idle_connections_do_not_lock_others_out(tmp_path: Path, descriptors: int) -> None:
    """However few descriptors there are, the oldest that wait for their client make room, for a burst of others too."""
    limited = ["prlimit", f"--nofile={descriptors}", *POOLSHIFT]
    service = Service(tmp_path, command=limited, V1_POOL_SIZE=1, V2_POOL_SIZE=1)
    idle: list[socket.socket] = []
    try:
        service.start()
        program = service.create("echo", {"nonce": "string"})
        for count in range(400):
            sock = connect(service)
            idle.append(sock)
            sock.sendall(
                (b"", b"GET /he", b"POST /programs/p/execute HTTP/1.1\r\ncontent-length: 9\r\n\r\n")[count % 3]
            )
        # On a connection of its own: that of `create` has waited for its client longest, so it makes room as well.
        executed = httpx.post(f"{service.url}/programs/{program}/execute", json={"inputs": {"nonce": "a"}}, timeout=60)
        assert executed.status_code == 200
        with connect(service) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert head_of_answer(sock).startswith("HTTP/1.1 200 ")
        for _ in range(300):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", service.port))
            idle.append(sock)
        wait_until(lambda: is_answered(service), "others are answered again", 20)
    finally:
        for sock in idle:
            sock.close()
        service.close()


def is_answered(service: Service) -> bool:
    """Tells if a new connection gets its answer at this moment."""
    try:
        return httpx.get(f"{service.url}/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
