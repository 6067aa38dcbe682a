"""`V1_SUNSET` announces the end of V1 on all that V1 answers; `POOLS=v2` is the end."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pytest

from tests.conftest import StartService
from tests.support.replicas import have_said
from tests.support.service import Service, running_service

SUNSET = datetime(2031, 1, 31, tzinfo=UTC)
EVENTS = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
def announced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has announced the end of V1."""
    with running_service(tmp_path_factory.mktemp("sunset"), V1_SUNSET="2031-01-31") as service:
        yield service


def answers(service: Service, version: str) -> dict[str, httpx.Response]:
    """One answer of each form, by the version that is forced."""
    force = {"x-pool-version": version}
    program = service.create("echo", {"nonce": "string"})
    failing = service.create("fail", {"message": "string"})
    batch = f"/programs/{program}/batch"
    return {
        "success": service.execute(program, force, inputs={"nonce": "a"}),
        "problem": service.execute(failing, force, inputs={"message": "as the test wishes"}),
        "refused": service.execute("no-such-program", force, inputs={}),
        "stream": service.execute(program, force | EVENTS, inputs={"nonce": "a"}),
        "job": service.execute(program, force | {"prefer": "respond-async"}, inputs={"nonce": "a"}),
        "batch": service.client.post(batch, json={"inputs": [{"nonce": "a"}]}, headers=force),
    }


def test_all_that_v1_answers_announces_its_end(announced: Service) -> None:
    """Deprecation (RFC 9745) has the time of the announcement, Sunset (RFC 8594) the day of the end."""
    for form, answer in answers(announced, "v1").items():
        assert parsedate_to_datetime(answer.headers["sunset"]) == SUNSET, form
        since = re.fullmatch(r"@(\d+)", answer.headers["deprecation"])
        assert since is not None, form
        assert 0 <= datetime.now(UTC).timestamp() - int(since[1]) < 600


def test_v2_announces_nothing(announced: Service) -> None:
    """No answer of V2 has either header."""
    for form, answer in answers(announced, "v2").items():
        assert not {"sunset", "deprecation"} & set(answer.headers), form


def test_metrics_and_migration_have_the_day(announced: Service) -> None:
    """The metric has seconds since 1970, and the log warns once at the start."""
    assert set(announced.samples("poolshift_v1_sunset_timestamp_seconds")) == {SUNSET.timestamp()}
    assert datetime.fromisoformat(announced.client.get("/migration").json()["v1_sunset"]) == SUNSET
    assert have_said(announced.log(), "V1 ends")


def test_a_restart_keeps_the_time_of_the_announcement(announced: Service) -> None:
    """Deprecation tells since when; another start of the service is not another announcement."""
    program = announced.create("echo", {"nonce": "string"})
    force = {"x-pool-version": "v1"}
    before = announced.execute(program, force, inputs={"nonce": "a"}).headers["deprecation"]
    announced.stop()
    announced.start()
    assert announced.execute(program, force, inputs={"nonce": "a"}).headers["deprecation"] == before


def test_without_v1_nothing_is_left_of_it(start_service: StartService) -> None:
    """With POOLS=v2: no series, no announcement, no workers, no way to give V1 anything; the migration is done."""
    service = start_service(POOLS="v2", V1_SUNSET="2031-01-31")
    program = service.create("echo", {"nonce": "string"})
    answer = service.execute(program, inputs={"nonce": "a"})
    assert answer.headers["x-pool-version"] == "v2"
    assert not {"sunset", "deprecation"} & set(answer.headers)
    metrics = service.client.get("/metrics").text
    assert '"v1"' not in metrics
    assert 'pool_version="v2"' in metrics
    assert service.metric("poolshift_v1_sunset_timestamp_seconds") == 0
    assert [pool["pool_version"] for pool in service.client.get("/pools").json()] == ["v2"]
    for method, path, body in (
        ("PATCH", "/rollout", {"canary_percent": 50}),
        ("POST", "/rollout/rollback", {}),
        ("POST", "/rollout/rotate", {}),
        ("POST", "/rollout/unrotate", {}),
        ("POST", "/rollout/start", {}),
        ("GET", "/pools/diff", None),
    ):
        refused = service.client.request(method, path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "rollback_impossible"), (path, refused.text)
        assert "runs without V1 (POOLS=v2)" in refused.json()["detail"]
    shown = service.client.get("/migration").json()
    assert (shown["phase"], shown["next"], shown["against"]) == ("done", "", [])
