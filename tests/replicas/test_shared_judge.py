"""Three servers on one PostgreSQL judge one ramp together, whichever of them dies."""

import concurrent.futures
import signal
from pathlib import Path
from typing import Any

from tests.conftest import StartService
from tests.replicas.conftest import Postgres
from tests.support.ramps import FAULTS_ALONE, Traffic, begin, newest_decision, status
from tests.support.replicas import COUNT
from tests.support.service import Service
from tests.support.waiting import wait_until


def start_three(start_service: StartService, postgres: Postgres, path: Path, **worker: float) -> list[Service]:
    """Starts replicas whose pools have one engine, and V2's workers the given environment."""
    path.write_text("".join(f"{name}={value}\n" for name, value in worker.items()))
    settings: dict[str, Any] = {"DATABASE_URL": postgres.url, "ENGINE": "session_pool_v2", "V2_WORKER_ENV_FILE": path}
    with concurrent.futures.ThreadPoolExecutor(3) as starters:
        started = [starters.submit(start_service, **settings) for _ in range(3)]
        return [one.result() for one in started]


def test_a_worse_canary_is_rolled_back_everywhere(
    start_service: StartService, postgres: Postgres, tmp_path: Path
) -> None:
    """The leader is killed amid the ramp: another takes over, no evidence is lost, and all replicas are back on V1."""
    replicas = start_three(start_service, postgres, tmp_path / "v2.env", CRASH_RATE=0.02)
    program = replicas[0].create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    begin(replicas[0], steps=[{"percent": 20, "hold_s": 3600, "min_calls": 100}], guardrails=FAULTS_ALONE)
    wait_until(lambda: all(status(one)["canary_percent"] == 20 for one in replicas), "every replica ramps")
    with Traffic(replicas, program) as traffic:
        traffic.wait_for(100)
        assert replicas[0].stop(signal.SIGKILL) == -signal.SIGKILL
        alive = replicas[1:]
        wait_until(lambda: all(status(one)["state"] == "rolled_back" for one in alive), "all are back on V1", 120)
        settled = [on_v2(one) for one in alive]
        traffic.wait_for(200)
        assert [on_v2(one) for one in alive] == settled
    for one in alive:
        assert status(one)["canary_percent"] == 0
        newest = one.client.get("/rollout/history").json()["items"][0]
        assert (newest["source"], newest["to_percent"]) == ("judge", 0)
    assert newest_decision(alive[0])["guardrail"] == "engine"


def test_evidence_adds_up(start_service: StartService, postgres: Postgres, tmp_path: Path) -> None:
    """Each replica shows the sum of all calls, once; and the status names every replica and the split it has seen."""
    replicas = start_three(start_service, postgres, tmp_path / "v2.env")
    program = replicas[0].create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    begin(replicas[1], steps=[{"percent": 50, "hold_s": 3600, "min_calls": 100}])
    wait_until(lambda: all(status(one)["in_force"] for one in replicas), "the step is in force everywhere")
    with Traffic(replicas, program) as traffic:
        traffic.wait_for(300)
    answered = len(traffic.answers)
    wait_until(lambda: all(calls_judged(one) == answered for one in replicas), f"all show {answered} calls")
    seen = status(replicas[2])
    assert len(seen["replicas"]) == 3 * COUNT
    assert not seen["silent"]
    wait_until(lambda: sum(split(one)["v1"] + split(one)["v2"] for one in replicas[:1]) == answered, "the split")


def test_one_of_two_starts_wins(start_service: StartService, postgres: Postgres, tmp_path: Path) -> None:
    """Two people start a plan on two replicas at once: one does, the other is told that a plan is under way."""
    replicas = start_three(start_service, postgres, tmp_path / "v2.env")
    steps = {"steps": [{"percent": 5, "hold_s": 3600}]}
    assert replicas[0].client.put("/rollout/plan", json=steps).status_code == 200
    wait_until(lambda: all(one.client.get("/rollout/plan").status_code == 200 for one in replicas), "all have the plan")
    with concurrent.futures.ThreadPoolExecutor(3) as people:
        asked = [people.submit(one.client.post, "/rollout/start", json={"reason": "me"}) for one in replicas]
        answers = [one.result() for one in asked]
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"plan_conflict"}
    wait_until(lambda: all(status(one)["state"] == "ramping" for one in replicas), "all see one plan under way")


def on_v2(service: Service) -> float:
    return service.metric("poolshift_routing_decisions_total", pool_version="v2")


def split(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = status(service)["split"]
    return found


def calls_judged(service: Service) -> int:
    rows = {row["name"]: row for row in service.client.get("/rollout/analysis").json()}
    return int(rows["engine"]["v1"]["calls"] + rows["engine"]["v2"]["calls"])
