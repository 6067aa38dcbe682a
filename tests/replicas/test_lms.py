"""LM settings on two replicas: what one is told is in force on the other within a second."""

import concurrent.futures
from collections.abc import Iterator

import pytest

from tests.conftest import VERSIONS, StartService
from tests.lm.conftest import create, field, on
from tests.lm.endpoint import Endpoint, running_endpoint
from tests.replicas.conftest import Postgres
from tests.service.test_errors import problem
from tests.support.service import Service
from tests.support.waiting import wait_until

PROMISED_S = 1.0
pytestmark = pytest.mark.lm


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def replicas(start_service: StartService, postgres: Postgres) -> list[Service]:
    """Two servers on one database."""
    with concurrent.futures.ThreadPoolExecutor(2) as starters:
        started = [starters.submit(start_service, DATABASE_URL=postgres.url) for _ in range(2)]
        return [one.result() for one in started]


def test_an_lm_set_on_one_replica_is_in_force_on_the_other(replicas: list[Service], endpoint: Endpoint) -> None:
    """Everyone's, a session's, and everyone's again for a session that has given its own up; on both versions."""
    one, other = replicas
    program = create(one, [field("text")], [field("topic")])

    def put(path: str, name: str) -> None:
        body = {"model": "openai/test", "api_base": endpoint.base("answers", name), "api_key": f"sk-{name}"}
        assert one.client.put(path, json=body).status_code == 200

    def is_followed(path: str, name: str) -> None:
        wait_until(
            lambda: other.client.get(path).json()["api_base"] == endpoint.base("answers", name),
            f"the other replica has {name!r}",
            deadline_s=2 * PROMISED_S,
        )

    def call(session: str | None, name: str) -> None:
        for version in VERSIONS:
            answer = other.execute(program, on(version), inputs={"text": "x"}, session_id=session)
            assert answer.json()["outputs"] == {"topic": f"{name} sk-{name}"}

    problem(other.execute(program, inputs={"text": "x"}), 409, "lm_not_configured")
    for turn in ("first", "second"):
        put("/lm", turn)
        is_followed("/lm", turn)
        call(None, turn)
    put("/sessions/s/lm", "own")
    is_followed("/sessions/s/lm", "own")
    call("s", "own")
    call(None, "second")
    assert one.client.delete("/sessions/s/lm").status_code == 204
    is_followed("/sessions/s/lm", "second")
    call("s", "second")
    assert "sk-" not in one.log() + other.log()


def test_an_lm_of_one_version_is_followed(replicas: list[Service], endpoint: Endpoint) -> None:
    """Set and taken back on one replica: the other one's calls of that version have it, then have it no more."""
    one, other = replicas
    program = create(one, [field("text")], [field("topic")])
    for path, name in (("/lm", "all"), ("/lm?pool_version=v2", "v2")):
        body = {"model": "openai/test", "api_base": endpoint.base("answers", name), "api_key": f"sk-{name}"}
        assert one.client.put(path, json=body).status_code == 200

    def answers() -> list[str]:
        found = [other.execute(program, on(version), inputs={"text": "x"}).json() for version in ("v1", "v2")]
        return [answer.get("outputs", {}).get("topic", answer.get("code")) for answer in found]

    wait_until(lambda: answers() == ["all sk-all", "v2 sk-v2"], "the other replica follows")
    assert one.client.delete("/lm?pool_version=v2").status_code == 204
    wait_until(lambda: answers() == ["all sk-all"] * 2, "the other replica follows that it is taken back")
