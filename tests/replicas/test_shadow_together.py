"""Replicas on one PostgreSQL add up what their shadow calls have found, whichever of them dies."""

import signal
from pathlib import Path
from typing import Any

from tests.conftest import StartService
from tests.replicas.conftest import Postgres
from tests.service.test_shadow import create, run, settings
from tests.support.service import Service
from tests.support.waiting import wait_until

CALLS = 8
"""Calls of one replica: too few for a verdict on their own."""


def test_evidence_adds_up_and_outlives_its_replica(
    start_service: StartService, postgres: Postgres, tmp_path: Path
) -> None:
    """Neither replica alone finds the field; both together do, also after one was killed."""
    shared: dict[str, Any] = {"DATABASE_URL": postgres.url, "ENGINE": "session_pool_v2", "POOL_SIZE": 2}
    one, other = [start_service(**settings(tmp_path, **shared)) for _ in range(2)]
    program = create(one, "answer", output="string")
    for replica in (one, other):
        run_alone(replica, program)
    wait_until(lambda: compared(one) == compared(other) == 2 * CALLS, "both know all calls")
    assert found(one) == found(other) == ["result"]
    assert one.stop(signal.SIGKILL) == -signal.SIGKILL
    run(other, program, range(3))
    wait_until(lambda: compared(other) == 2 * CALLS + 3, "the calls of the dead one still count")


def run_alone(service: Service, program: str) -> None:
    for n in range(CALLS):
        assert service.execute(program, inputs={"n": 2 * n}).status_code == 200
        wait_until(lambda n=n: outcomes(service) == n + 1, "the shadow of the call has ended")  # type: ignore[misc]


def outcomes(service: Service) -> float:
    """Shadow calls of this replica that have been compared."""
    name = "poolshift_shadow_calls_total"
    return service.metric(name, outcome="same") + service.metric(name, outcome="differs")


def compared(service: Service) -> int:
    shown: int = service.client.get("/shadow").json()["compared"]
    return shown


def found(service: Service) -> list[str]:
    return [row["field"] for row in service.client.get("/shadow").json()["fields"] if row["differs"]]
