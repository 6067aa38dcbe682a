"""`poolshift rollout plan`, the moves of a ramp, `status`, and `judge export`, against a real service."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import Poolshift, lines
from tests.conftest import StartService
from tests.support.service import Service
from tests.support.waiting import wait_until

PLAN = """
name: release 7
steps:
- {percent: 1, hold_s: 3600, min_calls: 2000}
- {percent: 25, hold_s: 90, approval: true}
guardrails:
  capacity: {action: observe}
"""


@pytest.fixture(autouse=True)
def no_plan(service: Service) -> Iterator[None]:
    """Each test finds no plan, and leaves none."""
    clear(service)
    yield
    clear(service)


def clear(service: Service) -> None:
    """Ends whatever ramp there is, with V2 at 0 %."""
    service.client.post("/rollout/rollback")
    assert service.client.delete("/rollout/plan").status_code == 204


@pytest.fixture
def planned(operator: Poolshift) -> Poolshift:
    """A service that has a plan."""
    operator.succeeds("rollout", "plan", "set", "-", stdin=PLAN)
    return operator


@pytest.mark.parametrize("name", ["plan.yaml", "plan.json", "-"])
def test_a_plan_is_set_shown_and_cleared(operator: Poolshift, service: Service, name: str) -> None:
    """From YAML or JSON, of a file or a pipe; what `show --json` prints is a plan again."""
    document: dict[str, Any] = {"name": "a", "steps": [{"percent": 5, "hold_s": 60}], "max_wait_s": 30}
    content = json.dumps(document) if name == "plan.json" else PLAN
    if name != "-":
        (operator.directory / name).write_text(content)
    plan = operator.json("rollout", "plan", "set", name, stdin=content if name == "-" else "")
    assert plan == operator.json("rollout", "plan", "show") == service.client.get("/rollout/plan").json()
    assert plan["name"] == ("a" if name == "plan.json" else "release 7")
    assert operator.json("rollout", "plan", "set", "-", stdin=json.dumps(plan)) == plan
    assert operator.succeeds("rollout", "plan", "clear") == ""
    assert operator.fails(1, "rollout", "plan", "show").startswith("not_found: ")


def test_people_see_the_plan_as_a_table(planned: Poolshift) -> None:
    """A line for each step, with what it waits for."""
    shown = lines(planned.succeeds("rollout", "plan", "show"))
    assert ["plan", "release", "7"] in shown
    assert ["guardrail", "capacity", "observe"] in shown
    assert shown[-3:] == [
        ["STEP", "V2", "HOLD", "CALLS", "APPROVAL"],
        ["1", "1", "%", "1", "h", "2,000", "-"],
        ["2", "25", "%", "90", "s", "100", "a", "person's"],
    ]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("steps: [{percent: 2, hold_s: 1}, {percent: 1, hold_s: 1}]", "must rise"),
        ("steps: [{percent: 1, hold_s: 1, hold: 1}]", "steps.0.'hold' (an unknown name)"),
        ("steps: [\n", "line"),
        ("", ""),
        ("steps: [{percent: 1, hold_s: 1}]\nguardrails: {tail: {action: rollback, share: 1}}", "shares"),
    ],
)
def test_a_plan_that_makes_no_sense(planned: Poolshift, content: str, where: str) -> None:
    """Exit code 1, and where it makes none; the plan before stays."""
    complaint = planned.fails(1, "rollout", "plan", "set", "-", stdin=content)
    assert complaint.startswith("invalid_plan: ")
    assert where in complaint
    assert planned.json("rollout", "plan", "show")["name"] == "release 7"


def test_a_file_that_is_not_there(operator: Poolshift) -> None:
    """Exit code 2, before the service is asked for anything."""
    assert operator.fails(2, "rollout", "plan", "set", "nowhere.yaml") == "nowhere.yaml: No such file or directory"


def test_the_moves_of_a_ramp(planned: Poolshift, service: Service) -> None:
    """Each leaves the ramp in its state, with its reason; and a move that the state does not allow is exit code 4."""
    assert planned.fails(4, "rollout", "pause").startswith("plan_conflict: ")
    begun = planned.json("rollout", "start", "--reason", "now")
    assert (begun["state"], begun["step"], begun["canary_percent"]) == ("ramping", 1, 1)
    for arguments in (("start",), ("plan", "set", "-"), ("plan", "clear"), ("resume",)):
        assert planned.fails(4, "rollout", *arguments, stdin=PLAN).startswith("plan_conflict: ")
    paused = planned.json("rollout", "pause", "--reason", "lunch")
    assert (paused["state"], paused["reason"], paused["by"]) == ("paused", "lunch", "anonymous")
    assert planned.json("rollout", "resume")["state"] == "ramping"
    assert "the plan is at step 1" in planned.fails(4, "rollout", "approve", "--step", "2")
    assert planned.json("rollout", "approve")["state"] == "ramping"
    promoted = planned.json("rollout", "promote", "--reason", "I am sure")
    assert (promoted["state"], promoted["canary_percent"]) == ("promoted", 100)
    assert "V2 gets 100 %, and the plan begins at 1 %" in planned.fails(4, "rollout", "start")
    assert planned.json("rollout", "start", "--lower")["state"] == "ramping"
    aborted = planned.json("rollout", "abort", "--reason", "no")
    assert (aborted["state"], aborted["canary_percent"], aborted["reason"]) == ("aborted", 0, "no")
    assert planned.json("rollout", "status").keys() == service.client.get("/rollout/status").json().keys()


def test_people_see_the_status(planned: Poolshift) -> None:
    """In words, with what comes next."""
    planned.succeeds("rollout", "start")
    shown = planned.succeeds("rollout", "status")
    assert ["step", "1", "of", "2"] in lines(shown)
    assert "1 % asked for, none seen yet (0 calls to V1, 0 to V2)" in shown
    assert "step 2 of 2: 25 %" in shown


def test_no_ramp_begins_under_a_pin(poolshift: Poolshift, start_service: StartService) -> None:
    """A start would wait for evidence for ever; the status of a ramp that was under way names the pin."""
    service = start_service(POOL_VERSION="v1")
    operator = poolshift.at(service.url)
    operator.succeeds("rollout", "plan", "set", "-", stdin=PLAN)
    assert "POOL_VERSION=v1 pins all calls" in operator.fails(4, "rollout", "start")
    status = operator.json("rollout", "status")
    assert (status["pin"], status["next"].partition(",")[0]) == ("v1", "nothing: POOL_VERSION=v1 pins all calls")
    assert ["pinned", "to", "v1:", "POOL_VERSION", "overrides", "the", "ramp"] in lines(
        operator.succeeds("rollout", "status")
    )


def test_no_service_to_ask(poolshift: Poolshift) -> None:
    """Exit code 3, as for every other command."""
    nobody = poolshift.at("http://127.0.0.1:9")
    for arguments in (("status",), ("start",), ("watch",), ("plan", "show")):
        nobody.fails(3, "rollout", *arguments)
    nobody.fails(3, "judge", "export")


def test_an_export_replays(planned: Poolshift, service: Service) -> None:
    """The calls that the judge saw, as lines for `judge replay`, with the number of calls on standard error."""
    program = service.create("echo", {"nonce": "string"})
    planned.succeeds("rollout", "start")
    for call in range(30):
        service.execute(program, inputs={"nonce": str(call)}, session_id=f"a-secret-session-{call}")
    file = planned.directory / "trace.jsonl"
    exported = planned("judge", "export", file)
    assert (exported.returncode, exported.stdout, exported.stderr) == (0, "", "30 calls\n")
    trace = file.read_text()
    assert planned.succeeds("judge", "replay", file).startswith(f"{file}: 30 calls\n")
    assert "a-secret-session" not in trace
    piped = planned("judge", "export")
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, trace, "30 calls\n")
    assert [path.name for path in planned.directory.iterdir()] == ["trace.jsonl"]
    planned.fails(2, "judge", "export", planned.directory / "no-such-folder" / "trace")


def test_the_metrics_of_a_ramp(planned: Poolshift, service: Service) -> None:
    """State and step as the ramp moves, the judge's calls as they come, and every series from the start."""
    guardrails = {row["name"] for row in service.client.get("/rollout/analysis").json()}
    assert len(guardrails) == 10
    text = service.client.get("/metrics").text
    for name in guardrails:
        for metric in ("log_e_value", "threshold", "ratio_lower", "ratio_upper"):
            assert f'poolshift_judge_{metric}{{guardrail="{name}"}}' in text
    state = service.client.get("/rollout/status").json()["state"]  # idle, or the end that another test has left
    assert service.metric("poolshift_rollout_state") == service.metric("poolshift_rollout_state", state=state) == 1
    planned.succeeds("rollout", "start")
    assert service.metric("poolshift_rollout_state") == service.metric("poolshift_rollout_state", state="ramping") == 1
    assert service.metric("poolshift_rollout_step") == 1
    program = service.create("echo", {"nonce": "string"})
    for call in range(20):
        service.execute(program, inputs={"nonce": str(call)})
    wait_until(lambda: service.metric("poolshift_judge_calls_total") == 20, "the calls are counted")
    row = next(row for row in service.client.get("/rollout/analysis").json() if row["name"] == "engine")
    wait_until(
        lambda: service.metric("poolshift_judge_log_e_value", guardrail="engine") == pytest.approx(row["log_e"]),
        "the evidence is as the analysis has it",
    )
    assert service.metric("poolshift_judge_threshold", guardrail="engine") == pytest.approx(row["threshold"])
