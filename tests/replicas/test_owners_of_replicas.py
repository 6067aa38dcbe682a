"""Replicas agree on whose a session is, from its first call on."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from config.api_keys import Scope, StoredKey, hash_key, new_key
from tests.auth.test_matrix import INPUTS, PROGRAM, write_keys
from tests.replicas.conftest import Postgres
from tests.service.test_errors import problem
from tests.support.service import Service, running_service

KEYS = {name: new_key() for name in ("alice", "bob")}
HEADERS = {name: {"authorization": f"Bearer {key}"} for name, key in KEYS.items()}


@pytest.fixture
def replicas(postgres: Postgres, tmp_path: Path) -> Iterator[list[Service]]:
    """Two that share a database and a file of keys."""
    keys = [StoredKey(name=name, hash=hash_key(key), scopes=frozenset({Scope.EXECUTE})) for name, key in KEYS.items()]
    path = write_keys(tmp_path / "keys.json", keys)
    with ExitStack() as stack:
        services = []
        for name in ("one", "other"):
            directory = tmp_path / name
            directory.mkdir()
            settings = {"API_KEYS_FILE": path, "DATABASE_URL": postgres.url, "V1_POOL_SIZE": 1, "V2_POOL_SIZE": 1}
            services.append(stack.enter_context(running_service(directory, **settings)))
        yield services


def test_a_session_has_one_owner_on_all_replicas(replicas: list[Service]) -> None:
    """Both callers begin the same sessions at the same moment, each on another replica: one of them has each."""
    created = replicas[0].client.post("/programs", json=PROGRAM, headers=HEADERS["alice"])
    path = created.headers["location"] + "/execute"
    names = [f"session-{number}" for number in range(20)]

    async def begin() -> list[tuple[int, int]]:
        async with httpx.AsyncClient(timeout=30) as client:

            async def call(service: Service, who: str, session: str) -> int:
                body = {**INPUTS, "session_id": session}
                return (await client.post(service.url + path, json=body, headers=HEADERS[who])).status_code

            # The other replica looks the program up before the race begins.
            await call(replicas[1], "bob", "warm")
            return [
                await asyncio.gather(call(replicas[0], "alice", name), call(replicas[1], "bob", name)) for name in names
            ]

    for name, statuses in zip(names, asyncio.run(begin()), strict=True):
        assert sorted(statuses) == [200, 404], name
        winner, loser = ("alice", "bob") if statuses[0] == 200 else ("bob", "alice")
        for service in replicas:
            assert service.client.get(f"/sessions/{name}", headers=HEADERS[winner]).status_code == 200
            problem(service.client.get(f"/sessions/{name}", headers=HEADERS[loser]), 404, "session_not_found")
            body = {**INPUTS, "session_id": name}
            problem(service.client.post(path, json=body, headers=HEADERS[loser]), 404, "session_not_found")


def test_a_job_is_its_owners_on_every_replica(replicas: list[Service]) -> None:
    """On every replica the owner finds the job, and nobody else does."""
    created = replicas[0].client.post("/programs", json=PROGRAM, headers=HEADERS["alice"])
    headers = {**HEADERS["alice"], "prefer": "respond-async"}
    started = replicas[0].client.post(created.headers["location"] + "/execute", json=INPUTS, headers=headers)
    for service in replicas:
        assert service.client.get(started.headers["location"], headers=HEADERS["alice"]).status_code == 200
        found = service.client.get(started.headers["location"], headers=HEADERS["bob"])
        problem(found, 404, "execution_not_found")
