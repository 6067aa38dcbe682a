"""A V2 that has never run a program with traffic: nobody says that it is fine, and everybody names the program."""

import os
from pathlib import Path
from typing import Any

import pytest

from cli.validation.live import check_error_rate
from tests.conftest import StartService
from tests.support.ramps import FAULTS_ALONE, Traffic, begin, status
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="a pin leaves nothing to compare")
NEVER = "V2 has never run 1 of 2 programs with traffic in the last 24 h: rare"


@pytest.fixture
def paired(start_service: StartService, tmp_path: Path) -> Service:
    """A service with the program `usual`."""
    for version in ("v1", "v2"):
        (tmp_path / f"{version}.env").write_text(f"VERSION={version}\n")
    service = start_service(
        ENGINE="session_pool_v2",
        PROGRAM_MODULES="tests.support.shadow_programs,tests.support.programs",
        V1_WORKER_ENV_FILE=tmp_path / "v1.env",
        V2_WORKER_ENV_FILE=tmp_path / "v2.env",
        V1_POOL_SIZE=2,
        V2_POOL_SIZE=2,
        SHADOW_MAX_CPU_PERCENT=100,
    )
    module = "tests.support.programs"
    service.create(f"{module}:fails_by_environment", {"call": "integer"}, output="integer", id="usual", idempotent=True)
    return service


def migration(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.client.get("/migration").json()
    return found


def test_an_error_rate_needs_calls_of_every_program(paired: Service) -> None:
    """150 equal copies of one program say nothing of another one, which fails in each call on V2: it is named."""
    paired.create("tests.support.shadow_programs:fails_on_v2", {"n": "integer"}, output="integer", id="rare")
    assert paired.execute("rare", inputs={"n": 1}).status_code == 200
    assert paired.client.patch("/rollout", json={"shadow_percent": 100}).status_code == 200
    with Traffic([paired], "usual"):
        wait_until(lambda: paired.client.get("/shadow").json()["compared"] >= 150, "copies of one program", 120)
    assert paired.client.get("/shadow").json()["never_run"] == ["rare"]
    coverage = migration(paired)["coverage"]
    assert (coverage["programs"], coverage["never_run"], coverage["copied"]) == (2, ["rare"], 1)
    assert coverage["short"] == [{"program_id": "rare", "calls": 0, "copies": 0}]
    found = check_error_rate(paired.client)
    assert (found.state, "1 of 2 lack some: rare 0" in found.evidence) == ("unknown", True), found


@pytest.mark.judge
def test_a_promotion_waits_for_every_program(paired: Service) -> None:
    """The evidence is there, but V2 has never run a program with traffic: the ramp waits until it has."""
    paired.create("tests.support.shadow_programs:same", {"n": "integer"}, output="integer", id="rare")
    assert paired.execute("rare", inputs={"n": 1}).status_code == 200
    steps = [{"percent": 50, "hold_s": 0.2, "min_calls": 1}]
    begin(paired, steps=steps, coverage={"programs": 1.0, "min_calls": 1}, guardrails=FAULTS_ALONE)
    with Traffic([paired], "usual"):
        waits = "V2 has run too few calls: of 1 of 2 programs with traffic, rare (0 of 1)"
        wait_until(lambda: status(paired)["reason"] == waits, "it waits for the program alone", 300)
        assert NEVER in migration(paired)["against"]
        while status(paired)["state"] != "promoted":
            assert paired.execute("rare", inputs={"n": 1}).status_code == 200
    assert status(paired)["reason"] == "evidence that V2 is no worse"
