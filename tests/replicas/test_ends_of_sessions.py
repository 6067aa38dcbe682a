"""A session that ended on one replica is refused on all of them, until it has something of its own again."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.replicas.conftest import Postgres
from tests.service.test_program_changes import definition, put
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until


@pytest.fixture
def replicas(postgres: Postgres, tmp_path: Path) -> Iterator[list[Service]]:
    with ExitStack() as stack:
        services = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            settings = {"DATABASE_URL": postgres.url, "V1_POOL_SIZE": 1, "V2_POOL_SIZE": 1}
            services.append(stack.enter_context(running_service(tmp_path / name, **settings)))
        yield services


def outcome(service: Service) -> str:
    answer = service.execute("p", inputs={"nonce": "a"}, session_id="s")
    return str(answer.json()["outputs"]["result"] if answer.status_code == 200 else answer.json()["code"])


def test_every_replica_remembers_it(replicas: list[Service]) -> None:
    one, other = replicas
    assert put(one, "p", definition()).status_code == 201
    for _ in range(2):
        assert put(one, "p", definition("shout"), "?session_id=s").status_code == 201
        wait_until(lambda: outcome(other) == "A", "the other replica knows the session's program")
        assert one.client.delete("/sessions/s").status_code == 204
        assert outcome(one) == "session_ended"
        wait_until(lambda: outcome(other) != "A", "the other replica has heard of the end")
        assert outcome(other) == "session_ended"
