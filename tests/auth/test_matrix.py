"""Every endpoint × no key, a wrong key, and each scope: CONTRACT.md, section 4.

The endpoints are those of `/openapi.json`: one that has no row here fails a test.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.api_keys import InvalidKeyFile, KeyFile, Scope, StoredKey, hash_key, new_key, read_key_file
from tests.support.service import Service, running_service

PROGRAM = {
    "program_type": "python",
    "entrypoint": "tests.support.programs:echo",
    "signature": {
        "inputs": [{"name": "nonce", "type": "string"}],
        "outputs": [{"name": "result", "type": "string"}],
    },
}
INPUTS = {"inputs": {"nonce": "a"}}
BATCH = {"inputs": [{"nonce": "a"}]}


@dataclass(frozen=True)
class Row:
    """An endpoint, the scopes of which a key needs one (None needs no key), and its answer to such a key."""

    method: str
    path: str
    scopes: frozenset[Scope] | None
    status: int = 200
    body: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.method, self.path, *(f"{name}={value}" for name, value in self.headers)])


ADMIN = frozenset({Scope.ADMIN})
EXECUTE = ADMIN | {Scope.EXECUTE}
OPERATE = ADMIN | {Scope.OPERATE}
OBSERVE = OPERATE | {Scope.OBSERVE}
READ = OBSERVE | EXECUTE

RAMP_VERBS = ("start", "pause", "resume", "approve", "promote", "abort")
"""Without a plan each is a conflict, whoever asks first."""
ROWS = [
    Row("GET", "/healthz", None),
    Row("GET", "/readyz", None),
    Row("GET", "/metrics", None),
    Row("POST", "/programs", EXECUTE, 201, PROGRAM),
    Row("GET", "/programs", READ),
    Row("GET", "/programs/{program_id}", READ),
    Row("PUT", "/programs/{program_id}", EXECUTE, 200, PROGRAM),
    Row("GET", "/programs/{program_id}/revisions", READ),
    Row("PATCH", "/programs", EXECUTE, 200, {"programs": [{**PROGRAM, "id": "applied"}]}),
    Row("POST", "/programs/{program_id}/promote", EXECUTE, 404),
    Row("POST", "/programs/{program_id}/demote", EXECUTE, 409),
    Row("POST", "/programs/{program_id}/restore", EXECUTE, 409),
    Row("GET", "/programs/{program_id}/deletions", EXECUTE),
    Row("DELETE", "/programs/{program_id}", EXECUTE, 204),
    Row("POST", "/programs/{program_id}/execute", EXECUTE, 200, INPUTS),
    Row("POST", "/programs/{program_id}/batch", EXECUTE, 200, BATCH),
    Row("GET", "/executions", READ),
    Row("GET", "/executions/{execution_id}", READ),
    Row("DELETE", "/executions/{execution_id}", EXECUTE),
    Row("GET", "/sessions", READ),
    Row("GET", "/sessions/{session_id}", READ),
    Row("DELETE", "/sessions/{session_id}", EXECUTE, 204),
    Row("GET", "/lm", READ),
    Row("PUT", "/lm", ADMIN, 200, {"model": "none"}),
    Row("DELETE", "/lm", ADMIN, 204),
    Row("POST", "/lm/restore", ADMIN, 200),
    Row("GET", "/sessions/{session_id}/lm", READ),
    Row("PUT", "/sessions/{session_id}/lm", EXECUTE, 200, {"model": "none"}),
    Row("DELETE", "/sessions/{session_id}/lm", EXECUTE, 204),
    Row("GET", "/rollout", READ),
    Row("PATCH", "/rollout", OPERATE, 200, {"canary_percent": 1}),
    Row("POST", "/rollout/rollback", OPERATE, 200, {}),
    Row("PUT", "/rollout/plan", OPERATE, 200, {"steps": [{"percent": 5, "hold_s": 60}]}),
    Row("GET", "/rollout/plan", READ),
    Row("DELETE", "/rollout/plan", OPERATE, 204),
    *(Row("POST", f"/rollout/{verb}", OPERATE, 409, {}) for verb in RAMP_VERBS),
    Row("GET", "/rollout/status", READ),
    Row("GET", "/rollout/analysis", OBSERVE),
    Row("GET", "/rollout/analysis/trace", ADMIN),
    Row("GET", "/rollout/decisions", OBSERVE),
    Row("GET", "/shadow", OBSERVE),
    Row("GET", "/shadow/{program_id}", OBSERVE, 404),
    Row("POST", "/shadow/{program_id}/compare", ADMIN, 422, INPUTS),
    Row("GET", "/rollout/history", READ),
    Row("POST", "/rollout/rotate", OPERATE, 409, {}),
    Row("POST", "/rollout/rotate", ADMIN, 422, {"unproven": True}),
    Row("POST", "/rollout/unrotate", OPERATE, 409, {}),
    Row("GET", "/migration", OBSERVE),
    Row("POST", "/migration/validations", ADMIN, 201, {"pools": "p", "items": []}),
    Row("GET", "/migration/report", OBSERVE),
    Row("PUT", "/migration/items/{item}", OPERATE, 200, {}),
    Row("DELETE", "/migration/items/{item}", OPERATE),
    Row("GET", "/failures", OBSERVE),
    Row("GET", "/pools", OBSERVE),
    Row("GET", "/pools/diff", OBSERVE),
    Row("GET", "/pools/{version}", OBSERVE),
    Row("POST", "/pools/reload", OPERATE),
    Row("POST", "/pools/{version}/reload", OPERATE),
]
FORCED = [
    Row("POST", "/programs/{program_id}/execute", ADMIN, 200, INPUTS, (("x-pool-version", version),))
    for version in ("v1", "v2")
]
FORCED.append(Row("POST", "/programs/{program_id}/batch", ADMIN, 200, BATCH, (("x-pool-version", "v2"),)))
OTHERWISE_ANSWERED = [
    Row("POST", "/programs/{program_id}/execute", EXECUTE, 200, INPUTS, (("accept", "text/event-stream"),)),
    Row("POST", "/programs/{program_id}/execute", EXECUTE, 202, INPUTS, (("prefer", "respond-async"),)),
]
UNDOCUMENTED = [Row("GET", path, READ) for path in ("/openapi.json", "/docs")]
"""The documentation does not document itself."""

ALL_ROWS = [*ROWS, *FORCED, *OTHERWISE_ANSWERED, *UNDOCUMENTED]
KEYS = {scope: new_key() for scope in Scope}
CALLERS: dict[str, Scope | None] = {"no key": None, "a wrong key": None, **{str(scope): scope for scope in Scope}}

_count = itertools.count()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that knows one key of each scope, named after it; all are one owner's."""
    directory = tmp_path_factory.mktemp("auth")
    stored = [
        StoredKey(name=f"the {scope}", hash=hash_key(key), scopes=frozenset({scope}), owner="a team")
        for scope, key in KEYS.items()
    ]
    with running_service(directory, API_KEYS_FILE=write_keys(directory / "keys.json", stored)) as service:
        body, headers = {"pools": "p", "items": []}, headers_of(Scope.ADMIN)
        assert service.client.post("/migration/validations", json=body, headers=headers).status_code == 201
        yield service


def write_keys(path: Path, keys: list[StoredKey]) -> Path:
    path.write_text(KeyFile(keys=tuple(keys)).model_dump_json())
    return path


def headers_of(caller: str) -> dict[str, str]:
    """Returns a caller's headers; the wrong key differs from a right one in its last character only."""
    if caller == "no key":
        return {}
    if caller == "a wrong key":
        right = KEYS[Scope.ADMIN]
        return {"authorization": f"Bearer {right[:-1]}{'A' if right[-1] != 'A' else 'B'}"}
    return {"authorization": f"Bearer {KEYS[Scope(caller)]}"}


def fresh(service: Service, path: str) -> str:
    """The path with ids in it of things that are there, and nobody else's."""
    if "{version}" in path:
        return path.format(version="v1")
    if "{" not in path:
        return path
    session_id = f"session-{next(_count)}" if "{session_id}" in path else None
    answer = service.client.post("/programs", json={**PROGRAM, "session_id": session_id}, headers=headers_of("admin"))
    assert answer.status_code == 201, answer.text
    program_id, execution_id = answer.json()["id"], None
    if "{execution_id}" in path:
        headers = {**headers_of("admin"), "prefer": "respond-async"}
        started = service.client.post(f"/programs/{program_id}/execute", json=INPUTS, headers=headers)
        assert started.status_code == 202, started.text
        execution_id = started.json()["execution_id"]
    return path.format(program_id=program_id, session_id=session_id, execution_id=execution_id, item="documentation")


def call(service: Service, row: Row, caller: str) -> httpx.Response:
    headers = {**headers_of(caller), **dict(row.headers)}
    return service.client.request(row.method, fresh(service, row.path), json=row.body, headers=headers)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("row", ALL_ROWS, ids=str)
def test_each_endpoint_lets_in_whom_it_should(service: Service, row: Row, caller: str) -> None:
    """401 without a known key, 403 without the scope, and with it the answer; `admin` includes all others."""
    answer = call(service, row, caller)
    if row.scopes is None or CALLERS[caller] in row.scopes:
        assert answer.status_code == row.status, answer.text
        return
    expected = (401, "unauthorized") if CALLERS[caller] is None else (403, "forbidden")
    assert (answer.status_code, answer.json()["code"]) == expected
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("www-authenticate") == ("Bearer" if expected[0] == 401 else None)


def test_every_endpoint_has_a_row(service: Service) -> None:
    """Nobody adds an endpoint without saying who may call it; nor does a row outlive its endpoint."""
    schema = service.client.get("/openapi.json", headers=headers_of("execute")).json()
    endpoints = {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
    assert endpoints == {(row.method, row.path) for row in ROWS}


@pytest.mark.parametrize("row", [row for row in ALL_ROWS if row.scopes is not None], ids=str)
def test_a_key_may_come_as_x_api_key(service: Service, row: Row) -> None:
    """Both headers are the same to every endpoint, the execute lane too."""
    assert row.scopes is not None
    key = KEYS[min(row.scopes)]
    sent = {"x-api-key": key, **dict(row.headers)}
    answer = service.client.request(row.method, fresh(service, row.path), json=row.body, headers=sent)
    assert answer.status_code == row.status, answer.text
    wrong = service.client.request(
        row.method, fresh(service, row.path), json=row.body, headers={**sent, "x-api-key": f"{key}x"}
    )
    assert wrong.status_code == 401


@pytest.mark.parametrize("caller", ["no key", "a wrong key", "execute", "observe"])
def test_who_is_refused_has_changed_nothing(service: Service, caller: str) -> None:
    """The refusal comes before the deed."""
    admin = headers_of("admin")
    before = service.client.get("/rollout", headers=admin).json()
    for row in ROWS:
        if row.scopes in (ADMIN, OPERATE):
            assert call(service, row, caller).is_client_error
    assert service.client.get("/rollout", headers=admin).json() == before
    if caller in ("execute", "observe"):
        return
    program = fresh(service, "/programs/{program_id}")
    count = len(service.client.get("/programs?limit=1000", headers=admin).json()["items"])
    for method, path, body in (
        ("DELETE", program, None),
        ("POST", "/programs", PROGRAM),
        ("POST", f"{program}/execute", INPUTS),
    ):
        assert service.client.request(method, path, json=body, headers=headers_of(caller)).status_code == 401
    assert len(service.client.get("/programs?limit=1000", headers=admin).json()["items"]) == count
    assert service.client.get(program, headers=admin).json()["execution_count"] == 0


@pytest.mark.parametrize("body", [b"", b"[]", b'{"canary_percent": "no"}', b"{"])
def test_who_is_not_known_learns_nothing_of_the_bodys_faults(service: Service, body: bytes) -> None:
    """Without a key a body that does not fit is unauthorized, not malformed (FastAPI parses JSON before it asks)."""
    sent = {"content-type": "application/json"}
    for row in ROWS:
        if row.method in ("POST", "PATCH", "PUT"):
            answer = service.client.request(row.method, fresh(service, row.path), content=body, headers=sent)
            assert answer.status_code == 401, f"{row}: {answer.text}"


@pytest.mark.parametrize(
    "value",
    ["Bearer", "Basic {key}", "{key}", "Bearer {key}, Bearer {key}", "Bearer {hash}"],
)
def test_an_authorization_that_is_none(service: Service, value: str) -> None:
    """Only a bearer token that is a key is one; the hash that the file keeps is none."""
    key = KEYS[Scope.ADMIN]
    sent = {"authorization": value.format(key=key, hash=hash_key(key))}
    answer = service.client.get("/rollout", headers=sent)
    assert answer.status_code == 401
    assert key not in answer.text


def test_the_history_names_the_key(service: Service) -> None:
    """The history shows the author of a change by the name that the key file gives to the key."""
    assert call(service, Row("PATCH", "/rollout", OPERATE, body={"canary_percent": 2}), "admin").status_code == 200
    newest = service.client.get("/rollout/history?limit=1", headers=headers_of("execute")).json()["items"][0]
    assert (newest["to_percent"], newest["updated_by"]) == (2, "the admin")


def test_no_secret_is_told(service: Service) -> None:
    """Neither a key nor its hash is in the log, the metrics or the documentation."""
    told = service.log() + service.client.get("/metrics").text
    for row in UNDOCUMENTED:
        told += service.client.get(row.path, headers=headers_of("admin")).text
    assert "Poolshift" in told
    for key in KEYS.values():
        assert key not in told
        assert hash_key(key) not in told


def test_without_keys_everything_is_open(shared_service: Service) -> None:
    """On loopback the first try needs nothing, a key that nobody asked for does no harm."""
    schema = shared_service.client.get("/openapi.json").json()
    assert schema["info"]["title"] == "Poolshift"
    page = shared_service.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in page.text
    assert shared_service.client.get("/pools", headers=headers_of("a wrong key")).status_code == 200


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("keys: [", "neither YAML nor JSON"),
        ("[]", "valid dictionary"),
        (json.dumps({"keys": [{"name": "a", "hash": "psk_secret", "scopes": ["admin"]}]}), "keys.0.hash"),
        (json.dumps({"keys": [{"name": "a", "hash": "0" * 64, "scopes": []}]}), "keys.0.scopes"),
        (json.dumps({"keys": [{"name": "a", "hash": "0" * 64, "scopes": ["root"]}]}), "keys.0.scopes"),
        (json.dumps({"keys": [{"name": "a", "hash": "0" * 64, "scopes": ["psk_secret"]}]}), "keys.0.scopes"),
        (
            json.dumps({"keys": [{"name": "a", "hash": "0" * 64, "scopes": ["admin"], "psk_secret": "a"}]}),
            "keys.0.(an unknown name)",
        ),
        (json.dumps({"keys": [], "psk_secret": 1}), "(an unknown name)"),
        ("psk_secret", "valid dictionary"),
        ("psk_secret: a: b", "neither YAML nor JSON"),
        ("keys: []\n\tpsk_secret\n", "neither YAML nor JSON"),
        ("keys: *psk_secret\n", "an alias is not taken"),
        ("!psk_secret [a]", "neither YAML nor JSON"),
        (json.dumps({"keys": [{"name": "a\0psk_secret", "hash": "0" * 64, "scopes": ["admin"]}]}), "keys.0.name"),
    ],
)
def test_a_file_of_keys_that_makes_no_sense(tmp_path: Path, content: str, why: str) -> None:
    """The fault is one line that says where, and shows no secret that someone put in the wrong place."""
    path = tmp_path / "keys.yaml"
    path.write_text(content)
    with pytest.raises(InvalidKeyFile) as caught:
        read_key_file(path)
    fault = str(caught.value)
    assert fault.startswith(f"{path}: ")
    assert why in fault
    assert "\n" not in fault
    assert "psk_secret" not in fault


def test_a_fault_of_the_file_of_keys_ends_the_start(tmp_path: Path) -> None:
    """The log has the fault and nothing else: no traceback shows what the file holds."""
    path = tmp_path / "keys.yaml"
    path.write_text("psk_secret: a: b")
    service = Service(tmp_path, API_KEYS_FILE=path)
    try:
        service.start(wait=False)
        assert service.wait_for_end() == 2
    finally:
        service.close()
    (line,) = service.log().splitlines()
    assert line.startswith(f"poolshift: API_KEYS_FILE={path}: line 1: ")
    assert "psk_secret" not in line
