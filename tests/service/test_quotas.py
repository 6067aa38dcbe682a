"""Quotas: a caller learns which one is used up, and hinders nobody else; a definition costs what its text does."""

import json
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from config.api_keys import Scope, StoredKey, hash_key, new_key
from tests.auth.test_matrix import write_keys
from tests.conftest import StartService
from tests.service.test_async_executions import ASYNC, HOLD
from tests.service.test_errors import problem
from tests.support.service import Service, running_service

FIELD = {"name": "text", "type": "string"}
SIGNATURE: dict[str, Any] = {"inputs": [FIELD], "outputs": [{"name": "keywords", "type": "array"}]}
MIB = 1024 * 1024
LARGE: dict[str, list[Any]] = {
    "text": ["x" * 200_000],
    "umlauts": ["Ü" * 150_000],
    "objects": [{}] * 60_000,
    "nested": [[[0]]] * 30_000,
}


def create(service: Service, session_id: str | None = None, default: Any = None) -> httpx.Response:
    """Asks for a program; its size is mostly that of `default`."""
    inputs = [FIELD, {"name": "limit", "type": "array", "default": default}] if default is not None else [FIELD]
    body = {
        "program_type": "python",
        "entrypoint": "examples.text:keywords",
        "signature": {**SIGNATURE, "inputs": inputs},
        "session_id": session_id,
    }
    return service.client.post("/programs", json=body)


def exceeded(answer: httpx.Response, quota: str) -> None:
    """The answer says that this quota is used up, and that nothing was done."""
    body = problem(answer, 429, "quota_exceeded")
    assert (body["quota"], body["category"], body["retry_safe"]) == (quota, "resource", True)
    assert quota in body["detail"]


def test_programs(start_service: StartService) -> None:
    """One session's quota leaves room for others, that of the service for nobody; what is deleted makes room."""
    service = start_service(QUOTA_PROGRAMS=4, QUOTA_PROGRAMS_PER_SESSION=2)
    assert [create(service, "a").status_code for _ in range(2)] == [201, 201]
    exceeded(create(service, "a"), "QUOTA_PROGRAMS_PER_SESSION")
    assert create(service, "b").status_code == 201
    last = create(service)
    assert last.status_code == 201
    for session in ("c", None):
        exceeded(create(service, session), "QUOTA_PROGRAMS")
    assert service.client.delete(last.headers["location"]).status_code == 204
    exceeded(create(service, "a"), "QUOTA_PROGRAMS_PER_SESSION")
    assert create(service, "c").status_code == 201
    assert service.client.delete("/sessions/a").status_code == 204
    assert [create(service, "a").status_code for _ in range(2)] == [201, 201]


def test_bytes_of_definitions(start_service: StartService) -> None:
    """They are counted as JSON, after a restart too."""
    settings = {"QUOTA_DEFINITION_BYTES": 100_000, "QUOTA_DEFINITION_BYTES_PER_SESSION": 50_000}
    service = start_service(**settings)
    assert create(service, "a", ["x" * 40_000]).status_code == 201
    exceeded(create(service, "a", ["x" * 40_000]), "QUOTA_DEFINITION_BYTES_PER_SESSION")
    assert create(service, "b", ["x" * 40_000]).status_code == 201
    exceeded(create(service, None, ["x" * 40_000]), "QUOTA_DEFINITION_BYTES")
    service.stop()
    service.start()
    exceeded(create(service, "a", ["x" * 40_000]), "QUOTA_DEFINITION_BYTES_PER_SESSION")
    exceeded(create(service, None, ["x" * 40_000]), "QUOTA_DEFINITION_BYTES")
    assert create(service, "a").status_code == 201


@pytest.mark.parametrize("how", ["execute", "program", "lm"])
def test_sessions(start_service: StartService, how: str) -> None:
    """However one begins; calls in sessions that are there, and calls without one, go on."""
    service = start_service(QUOTA_SESSIONS=2)
    program = create(service).json()["id"]

    def begin(session: str) -> httpx.Response:
        if how == "program":
            return create(service, session)
        if how == "lm":
            return service.client.put(f"/sessions/{session}/lm", json={"model": "none"})
        return service.execute(program, inputs={"text": "a"}, session_id=session)

    assert all(begin(session).is_success for session in ("a", "b"))
    exceeded(begin("c"), "QUOTA_SESSIONS")
    exceeded(service.execute(program, inputs={"text": "a"}, session_id="c"), "QUOTA_SESSIONS")
    assert begin("a").is_success
    assert service.execute(program, inputs={"text": "a"}).status_code == 200
    assert service.client.delete("/sessions/b").status_code == 204
    assert begin("c").is_success


def test_an_owner_takes_no_more_than_its_share(tmp_path: Path) -> None:
    """The quotas of sessions and jobs hold for all keys of an owner together; another owner has its own."""
    keys = {name: new_key() for name in ("alice", "alice too", "bob")}
    owners = {"alice too": "alice"}
    stored = [
        StoredKey(name=name, hash=hash_key(key), scopes=frozenset({Scope.EXECUTE}), owner=owners.get(name))
        for name, key in keys.items()
    ]
    settings = {"QUOTA_SESSIONS_PER_OWNER": 1, "QUOTA_JOBS_PER_OWNER": 1, "DRAIN_TIMEOUT_S": 0.1}
    with running_service(tmp_path, API_KEYS_FILE=write_keys(tmp_path / "keys.json", stored), **settings) as service:
        service.client.headers["authorization"] = f"Bearer {keys['bob']}"
        hold = service.create("hold", HOLD)
        assert create(service, "of-bob").status_code == 201
        for name, status in (("alice", 202), ("alice too", 429), ("alice", 429), ("bob", 202)):
            as_name = {"authorization": f"Bearer {keys[name]}", **ASYNC}
            inputs = {"directory": str(tmp_path), "name": name.replace(" ", "-")}
            answer = service.execute(hold, as_name, inputs=inputs)
            assert answer.status_code == status
            if status == 429:
                exceeded(answer, "QUOTA_JOBS_PER_OWNER")
        for name, session in (("alice", "a"), ("alice too", "b")):
            service.client.headers["authorization"] = f"Bearer {keys[name]}"
            answer = create(service, session)
            if session == "a":
                assert answer.status_code == 201
            else:
                exceeded(answer, "QUOTA_SESSIONS_PER_OWNER")


def test_a_session_takes_no_more_than_half_of_the_jobs(start_service: StartService, tmp_path: Path) -> None:
    """Whatever its quota: others find room."""
    service = start_service(QUEUE_LIMIT=4, V1_POOL_SIZE=1, V2_POOL_SIZE=1, POOL_VERSION="v2", DRAIN_TIMEOUT_S=0.1)
    hold = service.create("hold", HOLD)

    def begin(session: str | None) -> httpx.Response:
        return service.execute(hold, ASYNC, inputs={"directory": str(tmp_path), "name": "a"}, session_id=session)

    assert [begin("greedy").status_code for _ in range(3)] == [202] * 3
    exceeded(begin("greedy"), "QUOTA_JOBS_PER_SESSION")
    assert begin("modest").status_code == 202
    assert begin(None).status_code == 202


@pytest.mark.parametrize("default", LARGE.values(), ids=LARGE)
def test_a_page_ends_before_it_is_large(shared_service: Service, default: list[Any]) -> None:
    """However many items are asked for; the pages together have each program once, and show it as it was created."""
    session = f"pages-{len(json.dumps(default))}"
    made = [create(shared_service, session, default).json() for _ in range(8)]
    found, cursor, pages = [], None, 0
    while True:
        query: dict[str, Any] = {"session_id": session, "limit": 1000, **({"cursor": cursor} if cursor else {})}
        answer = shared_service.client.get("/programs", params=query)
        items = answer.json()["items"]
        assert items
        assert len(items) == 1 or len(answer.content) <= 2 * MIB
        found += items
        pages += 1
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            break
    assert found == made
    assert found[0]["signature"]["inputs"][1]["default"] == default
    assert pages > 1
    assert shared_service.client.delete(f"/sessions/{session}").status_code == 204


def test_large_definitions_cost_what_their_text_does(start_service: StartService) -> None:
    """20 programs of some 747 kB, whose defaults would be 25 times as large as Python objects."""
    service = start_service()
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    default: list[Any] = [{}] * 240_000
    size = len(json.dumps(default))
    assert create(service, None, default).status_code == 201  # its parsing takes room that stays the process's
    before = process.memory_info().rss
    count = 20
    for number in range(count):
        assert create(service, None, [number, *default]).status_code == 201
    grown = process.memory_info().rss - before
    # Some three times in practice: the threads of the allocator keep some. The objects would take 25 times as much.
    assert grown < 6 * count * size, f"{grown / MIB:.0f} MiB"
