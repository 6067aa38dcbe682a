"""A key that is revoked while the body of its call arrives runs nothing."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.api_keys import Scope, StoredKey, hash_key, new_key
from tests.auth.test_matrix import INPUTS, PROGRAM, write_keys
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

ADMIN, CALLER = new_key(), new_key()
WAYS = {
    "plain": ("execute", ""),
    "stream": ("execute", "accept: text/event-stream\r\n"),
    "job": ("execute", "prefer: respond-async\r\n"),
    "keyed": ("execute", "idempotency-key: {name}\r\n"),
    "keyed job": ("execute", "prefer: respond-async\r\nidempotency-key: {name}\r\n"),
    "batch": ("batch", ""),
}


def keys(path: Path, *, has_caller: bool) -> Path:
    """Writes a file of keys: an admin's and, unless it is revoked, a caller's."""
    admin = StoredKey(name="admin", hash=hash_key(ADMIN), scopes=frozenset({Scope.ADMIN}))
    caller = StoredKey(name="caller", hash=hash_key(CALLER), scopes=frozenset({Scope.EXECUTE}))
    return write_keys(path, [admin, caller] if has_caller else [admin])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("revoked")
    with running_service(directory, API_KEYS_FILE=keys(directory / "keys.json", has_caller=True)) as service:
        service.client.headers["x-api-key"] = ADMIN
        yield service


def status_of(service: Service, key: str) -> int:
    return service.client.get("/programs", headers={"x-api-key": key}).status_code


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_revoked", [True, False], ids=["revoked", "others changed"])
def test_a_key_that_is_revoked_amid_a_body(served: Service, way: str, *, is_revoked: bool) -> None:
    """The call is refused and has not run; if other keys have changed, it runs."""
    file = served.directory / "keys.json"
    keys(file, has_caller=True)
    wait_until(lambda: status_of(served, CALLER) == 200, "the key is valid")
    program = served.client.post("/programs", json=PROGRAM).json()["id"]
    operation, headers = WAYS[way]
    body = json.dumps({"inputs": [INPUTS["inputs"]]} if operation == "batch" else INPUTS)
    head = (
        f"POST /programs/{program}/{operation} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {CALLER}\r\n"
        f"{headers.format(name=program)}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as sock:
        sock.sendall((head + body[:5]).encode())
        assert status_of(served, CALLER) == 200  # the service has had time to see the head
        if is_revoked:
            keys(file, has_caller=False)
            wait_until(lambda: status_of(served, CALLER) == 401, "the key is revoked")
        else:
            write_keys(
                file,
                [
                    StoredKey(name=program, hash=hash_key(ADMIN), scopes=frozenset({Scope.ADMIN})),
                    StoredKey(name="caller", hash=hash_key(CALLER), scopes=frozenset({Scope.EXECUTE})),
                ],
            )
            wait_until(lambda: f"names=['{program}', 'caller']" in served.log(), "the other key has another name")
        sock.sendall(body[5:].encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    status = int(answer.split()[1])
    assert status == (401 if is_revoked else 202 if "job" in way else 200), answer
    count = served.client.get(f"/programs/{program}").json()["execution_count"]
    assert count == (0 if is_revoked else 1)
