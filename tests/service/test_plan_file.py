"""`ROLLOUT_PLAN_FILE`: followed while the service runs, and no danger to a ramp that is under way."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.support.replicas import have_said, said_once
from tests.support.service import Service
from tests.support.waiting import wait_until

IGNORED = "plan file ignored; the last good plan stays"


def written(path: Path, *percents: float, name: str = "from the file", **more: Any) -> Path:
    """Replaces the file whole with a plan of these steps."""
    plan = {"name": name, "steps": [{"percent": percent, "hold_s": 3600} for percent in percents], **more}
    return replaced(path, json.dumps(plan) + "\n")


def replaced(path: Path, content: str) -> Path:
    """As a careful writer does it."""
    temporary = path.with_suffix(".new")
    temporary.write_text(content)
    return temporary.replace(path)


def percents(service: Service) -> list[float] | None:
    """The steps of the plan, None if there is none."""
    answer = service.client.get("/rollout/plan")
    return None if answer.status_code == 404 else [step["percent"] for step in answer.json()["steps"]]


def state(service: Service) -> str:
    """The ramp's state."""
    said: str = service.client.get("/rollout/status").json()["state"]
    return said


def move(service: Service, what: str) -> None:
    """Asks for a move of the ramp."""
    answer = service.client.post(f"/rollout/{what}")
    assert answer.status_code == 200, answer.text


def test_a_plan_from_a_file_is_followed(start_service: StartService, tmp_path: Path) -> None:
    """YAML as people write it; each change is taken up, and none starts anything."""
    file = replaced(
        tmp_path / "plan.yaml", "# Release 7\nsteps:\n- {percent: 1, hold_s: 60}\n- {percent: 25, hold_s: 60}\n"
    )
    service = start_service(ROLLOUT_PLAN_FILE=file)
    wait_until(lambda: percents(service) == [1, 25], "the plan is taken up")
    written(file, 2, 50)
    wait_until(lambda: percents(service) == [2, 50], "the change is taken up")
    status = service.client.get("/rollout/status").json()
    assert (status["state"], status["canary_percent"], status["by"]) == ("idle", 0, "plan.yaml")


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        ("steps:\n- {percent: 1, hold_s: 60}\n- {percent: [\n", "line"),
        (
            "steps:\n- {percent: 1, hold_s: 60}\n- {percent: 0.5, hold_s: 60}\n",
            "the percentages of the steps must rise",
        ),
        ("steps:\n- {percent: 1, hold_s: 60, min_cals: 3}\n", "steps.0.'min_cals' (an unknown name)"),
        ("steps: [{percent: 1, hold_s: 60}]\nguardrails: {enginee: {action: pause}}\n", "enginee"),
        ("steps: []\n", "steps"),
        ("\n", ""),
    ],
)
def test_a_broken_file_leaves_the_last_good_plan(
    start_service: StartService, tmp_path: Path, broken: str, where: str
) -> None:
    """The log says where it is broken, once however often the file is looked at; and a good one counts again."""
    file = written(tmp_path / "plan.yaml", 1, 25)
    service = start_service(ROLLOUT_PLAN_FILE=file)
    wait_until(lambda: percents(service) == [1, 25], "the plan is taken up")
    replaced(file, broken)
    wait_until(lambda: IGNORED in service.log(), "it is said")
    assert all(where in line for line in said_once(service.log(), IGNORED))
    wait_until(lambda: have_said(service.log(), IGNORED), "each replica says it")
    file.unlink()
    wait_until(lambda: have_said(service.log(), "it cannot be read"), "a look later")
    assert have_said(service.log(), IGNORED, times=2)
    assert percents(service) == [1, 25]
    written(file, 3)
    wait_until(lambda: percents(service) == [3], "a good one counts again")


@pytest.mark.parametrize(("end", "ended"), [("abort", "aborted"), ("promote", "promoted")])
def test_a_change_amid_a_ramp_is_taken_up_at_its_end(
    start_service: StartService, tmp_path: Path, end: str, ended: str
) -> None:
    """The ramp goes on by the plan that it was started with, and the log says so once. Its end stays to be seen."""
    file = written(tmp_path / "plan.yaml", 1, 25)
    service = start_service(ROLLOUT_PLAN_FILE=file)
    wait_until(lambda: percents(service) == [1, 25], "the plan is taken up")
    move(service, "start")
    written(file, 7, 70)
    wait_until(lambda: IGNORED in service.log(), "it is said")
    assert "taken up when that has ended" in service.log()
    assert (percents(service), state(service)) == ([1, 25], "ramping")
    move(service, "pause")
    assert (percents(service), state(service)) == ([1, 25], "paused")
    move(service, end)
    wait_until(lambda: percents(service) == [7, 70], "the change is taken up")
    assert state(service) == ended


def test_an_unchanged_file_changes_nothing_at_a_restart(start_service: StartService, tmp_path: Path) -> None:
    """Neither the plan that a person has set since, nor a ramp, nor its end."""
    file = written(tmp_path / "plan.yaml", 1, 25)
    service = start_service(ROLLOUT_PLAN_FILE=file)
    wait_until(lambda: percents(service) == [1, 25], "the plan is taken up")
    other = {"steps": [{"percent": 9, "hold_s": 3600}]}
    assert service.client.put("/rollout/plan", json=other).status_code == 200
    move(service, "start")
    service.stop()
    service.start()
    assert (percents(service), state(service)) == ([9], "ramping")
    move(service, "abort")
    service.stop()
    service.start()
    assert (percents(service), state(service)) == ([9], "aborted")
    # Another look at the same plan in other words is no change either.
    replaced(file, f"# A comment\n{file.read_text()}")
    written(tmp_path / "plan.yaml", 4)
    wait_until(lambda: percents(service) == [4], "a change counts")
    assert IGNORED not in service.log()
