"""The whole migration with real traffic: parallel, validation, rollout by plan, full, and the end of V1."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.ramps import Traffic, begin, status
from tests.support.service import POOLSHIFT, Service, running_service
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.judge,
    pytest.mark.timing,
    pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="is about both versions at once"),
]
PROGRAM = "mine"
SHADOWED = 100


def poolshift(service: Service, *arguments: str, exit_code: int = 0) -> str:
    """Runs a command as a person would, and returns its output."""
    command = [*POOLSHIFT, *arguments, "--url", service.url]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=400)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


def migration(service: Service) -> dict[str, Any]:
    shown: dict[str, Any] = service.client.get("/migration").json()
    return shown


def position(service: Service) -> tuple[str, str]:
    shown = migration(service)
    return shown["phase"], shown["next"]


def states(service: Service) -> dict[str, str]:
    return {one["item"]: one["state"] for one in migration(service)["checklist"]}


def in_parallel(service: Service) -> None:
    """V1 serves; copies of its calls run on V2."""
    assert position(service) == ("parallel", "poolshift migration validate")
    assert any("real inputs" in objection for objection in migration(service)["against"])
    poolshift(service, "rollout", "set", "0", "--shadow", "50", "--reason", "look at V2")
    wait_until(lambda: migration(service)["against"] == [], "a call is compared", 120)
    wait_until(lambda: service.client.get("/shadow").json()["compared"] >= SHADOWED, "calls are compared", 120)


def validated(service: Service, inputs: Path) -> None:
    """No item is against V2, and none that can be known is open; the judge's item stands on the shadow calls."""
    poolshift(service, "migration", "validate", "--inputs", str(inputs), "--rate", "10")
    found = states(service)
    for item in ("tests", "concurrency", "sessions", "errors", "load", "error_rate"):
        assert found[item] == "met", migration(service)["checklist"]
    assert found["documentation"] == "unknown"
    assert migration(service)["phase"] == "validation"
    poolshift(service, "migration", "tick", "documentation", "--note", "runbook 7")
    assert states(service)["documentation"] == "met"
    assert "<svg" in poolshift(service, "migration", "report", "--format", "html")


def rolled_out(service: Service) -> None:
    """A plan takes V2 to 100 %, by evidence or by a person."""
    begin(service)
    assert position(service) == ("rollout", "poolshift rollout watch")
    wait_until(lambda: status(service)["step"] == 2 and status(service)["state"] == "waiting", "its last step", 120)
    if status(service)["state"] != "promoted":
        poolshift(service, "rollout", "promote", "--reason", "seen enough")
    shown = migration(service)
    assert (shown["phase"], shown["canary_percent"]) == ("full", 100)
    assert any("V1 has served" in objection for objection in shown["against"])
    assert shown["settings"] == []


def test_a_service_is_led_from_v1_to_v2(tmp_path: Path) -> None:
    """Each phase follows from what was done; no call is lost; in the end nothing of V1 is left."""
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text(json.dumps({"program_id": PROGRAM, "inputs": {"call": 7}}) + "\n")
    shared = {"V1_SUNSET": "2031-01-31", "SHADOW_MAX_CPU_PERCENT": 100}
    with running_service(tmp_path, ENGINE="session_pool_v2", **shared) as service:
        described = {"id": PROGRAM, "idempotent": True, "instructions": "Returns the call."}
        service.create("fails_by_environment", {"call": "integer"}, output="integer", **described)
        with Traffic([service], PROGRAM) as before:
            in_parallel(service)
        validated(service, inputs)
        with Traffic([service], PROGRAM) as after:
            rolled_out(service)
            after.wait_for(200)
        assert {(code, version, error) for _, code, version, error in before.answers} == {(200, "v1", None)}
        assert {(code, error) for _, code, _, error in after.answers} == {(200, None)}
        assert {version for _, _, version, _ in after.answers[-100:]} == {"v2"}
    with running_service(tmp_path, POOLS="v2", **shared) as service:
        assert position(service) == ("done", "")
        answer = service.execute(PROGRAM, inputs={"call": 8})
        assert (answer.json()["outputs"], answer.headers["x-pool-version"]) == ({"result": 8}, "v2")
        assert "sunset" not in answer.headers
        assert '"v1"' not in service.client.get("/metrics").text
        poolshift(service, "rollout", "rollback", exit_code=1)
