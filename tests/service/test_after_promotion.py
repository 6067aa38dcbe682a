"""A V2 that was fine on its ramp and is not afterwards: what the service says once V2 has all calls."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.support.ramps import Traffic, begin, status
from tests.support.service import POOLSHIFT, Service, running_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="a pin leaves nothing to promote")


@pytest.fixture
def bombed(start_service: StartService, tmp_path: Path) -> Service:
    """A service whose V2 raises in each second call once a file is there."""
    return start_service(**settings(tmp_path))


def settings(directory: Path) -> dict[str, Any]:
    """Settings of a service whose V2 has a bomb."""
    (directory / "v2.env").write_text(f"RAISE_RATE=0.5\nFUSE={directory / 'bomb'}\n")
    environment = directory / "v2.env"
    return {"ENGINE": "session_pool_v2", "V2_WORKER_ENV_FILE": environment, "V1_POOL_SIZE": 2, "V2_POOL_SIZE": 2}


def test_a_promotion_can_be_planned_and_has_its_warning(bombed: Service) -> None:
    """At the last step each missing guardrail has its calls and time; a promotion without them says so."""
    program = bombed.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    steps = [{"percent": 50, "hold_s": 0.2, "min_calls": 300}]
    with Traffic([bombed], program):
        begin(bombed, steps=steps)
        wait_until(lambda: any(one["seconds"] for one in status(bombed)["promotion"]), "it is to be foreseen")
        found = status(bombed)
        assert {one["guardrail"] for one in found["promotion"]} <= {"engine", "program", "latency", "tail"}
        assert all(one["calls"] > 0 for one in found["promotion"] if one["calls"] is not None)
        assert found["warning"] is None
        told = poolshift(bombed, "rollout", "status")
        assert re.search(r"promotion +\w+ in about \S+ \w+, [\d,]+ calls", told), told
        assert bombed.client.post("/rollout/promote", json={"reason": "seen enough"}).status_code == 200
    found = status(bombed)
    assert (found["warning"], found["promotion"]) == ("Advanced without evidence", [])
    assert "Advanced without evidence" in migration(bombed)["against"]
    assert "Advanced without evidence" in bombed.client.get("/console").text
    for command in (("status",), ("watch", "--until-done")):
        assert "Advanced without evidence" in poolshift(bombed, "rollout", *command)


def poolshift(service: Service, *arguments: str) -> str:
    command = [*POOLSHIFT, *arguments, "--url", service.url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def migration(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.client.get("/migration").json()
    return found


def test_the_migration_has_v2s_faults_now_and_at_the_promotion(bombed: Service, tmp_path: Path) -> None:
    """A time bomb goes off after 100 %: both rates are there, and none before V2 has all calls."""
    program = bombed.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    with Traffic([bombed], program) as traffic:
        begin(bombed, steps=[{"percent": 50, "hold_s": 3600}])
        traffic.wait_for(300)
        assert migration(bombed)["v2_faults"] is None
        assert bombed.client.post("/rollout/promote", json={"reason": "seen enough"}).status_code == 200
        traffic.wait_for(100)
        (tmp_path / "bomb").touch()
        wait_until(lambda: migration(bombed)["v2_faults"]["now"]["faults"] > 50, "V2's faults are counted")
        found = migration(bombed)
    before = found["v2_faults"]["at_promotion"]
    assert (found["phase"], status(bombed)["state"]) == ("full", "promoted")
    assert before["faults"] == 0
    assert before["calls"] > 50


def begin_and_promote(service: Service, traffic: Traffic, **after: Any) -> None:
    """Compares some hundred calls at 50 %, and promotes V2."""
    begin(service, steps=[{"percent": 50, "hold_s": 3600}], after=after)
    traffic.wait_for(600)
    assert service.client.post("/rollout/promote", json={"reason": "seen enough"}).status_code == 200
    traffic.wait_for(200)


def test_a_bomb_after_the_promotion_is_told(bombed: Service, tmp_path: Path) -> None:
    """V2 keeps its calls, and everybody is told: the program, the code, and both rates."""
    program = bombed.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    with Traffic([bombed], program) as traffic:
        begin_and_promote(bombed, traffic)
        assert status(bombed)["reason"] == "promoted without waiting for evidence: seen enough"
        (tmp_path / "bomb").touch()
        wait_until(lambda: "has become worse" in (status(bombed)["reason"] or ""), "it is told")
    found = status(bombed)
    assert (found["state"], found["by"], found["canary_percent"]) == ("promoted", "judge", 100)
    assert f"most are program_error of the program {program}" in found["reason"]
    assert "at the last step 0 of" in found["reason"]
    newest = bombed.client.get("/rollout/history").json()["items"][0]
    assert (newest["source"], newest["to_percent"], newest["reason"]) == ("judge", 100, found["reason"])
    assert found["reason"] in migration(bombed)["against"]
    decision = bombed.client.get("/rollout/decisions").json()["items"][0]
    assert (decision["verdict"], decision["guardrail"]) == ("alert", "after")


def test_a_bomb_after_the_promotion_is_rolled_back(bombed: Service, tmp_path: Path) -> None:
    """If the plan says so: V1 has all calls again, by the judge."""
    program = bombed.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    with Traffic([bombed], program) as traffic:
        begin_and_promote(bombed, traffic, watch_s=3600, action="rollback")
        (tmp_path / "bomb").touch()
        wait_until(lambda: status(bombed)["state"] == "rolled_back", "it is rolled back")
        traffic.wait_for(50)
    assert (status(bombed)["by"], status(bombed)["canary_percent"]) == ("judge", 0)
    assert {version for _, _, version, _ in traffic.answers[-20:]} == {"v1"}


def test_without_v1_it_goes_on_as_an_alert(tmp_path: Path) -> None:
    """The last step's rate outlives the restart without V1, where nothing can be rolled back."""
    with running_service(tmp_path, **settings(tmp_path)) as service:
        program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
        with Traffic([service], program) as traffic:
            begin_and_promote(service, traffic, watch_s=3600, action="rollback")
    with running_service(tmp_path, POOLS="v2", **settings(tmp_path)) as service:
        with Traffic([service], program) as traffic:
            traffic.wait_for(50)
            (tmp_path / "bomb").touch()
            wait_until(lambda: "has become worse" in (status(service)["reason"] or ""), "it is told")
        assert (status(service)["state"], status(service)["canary_percent"]) == ("promoted", 100)
