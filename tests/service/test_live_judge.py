"""The judge on real workers: an equal V2 goes all the way, a worse one is rolled back, and no call is lost."""

import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.support.ramps import CLIENTS, PLAN, Traffic, begin, newest_decision, status
from tests.support.service import Service
from tests.support.waiting import wait_until

RAMPS = int(os.environ.get("JUDGE_RAMPS", "1"))
"""Ramps of each kind; `make nightly` does 20."""
pytestmark = pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="a pin leaves nothing to judge")


@pytest.fixture
def start_pair(start_service: StartService, tmp_path: Path) -> Callable[..., Service]:
    """Starts services whose two pools have the same engine, and V2's workers the given environment."""

    def start(*, rotate_min_calls: int = 1000, **worker_environment: float) -> Service:
        path = tmp_path / "v2.env"
        path.write_text("".join(f"{name}={value}\n" for name, value in worker_environment.items()))
        settings = {"ENGINE": "session_pool_v2", "V2_WORKER_ENV_FILE": path, "V1_POOL_SIZE": 4, "V2_POOL_SIZE": 4}
        return start_service(ROTATE_MIN_CALLS=rotate_min_calls, **settings)

    return start


def newest_change(service: Service) -> tuple[str, float]:
    """Returns the source and the percentage of the newest change in the history."""
    newest = service.client.get("/rollout/history").json()["items"][0]
    return newest["source"], newest["to_percent"]


def is_at_the_end(plan: dict[str, Any]) -> bool:
    """Tells if the plan waits for evidence at its last step, or goes on no more."""
    return (plan["state"], plan["step"]) == ("waiting", 2) or plan["state"] not in ("ramping", "waiting")


def test_an_equal_canary_is_left_alone(start_pair: Callable[..., Service]) -> None:
    """V2 = V1: the ramp reaches its last step and waits there for evidence; nothing speaks against V2."""
    service = start_pair()
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    with Traffic([service], program) as traffic:
        begin(service)
        wait_until(lambda: is_at_the_end(status(service)), "it waits at its last step, or has ended", 120)
        traffic.wait_for(500)
    assert status(service)["state"] in ("waiting", "promoted"), status(service)
    assert {code for _, _, _, code in traffic.answers} == {None}
    decisions = service.client.get("/rollout/decisions").json()["items"]
    assert {one["verdict"] for one in decisions} <= {"continue", "promote"}


@pytest.mark.judge
def test_an_equal_canary_goes_all_the_way(start_pair: Callable[..., Service]) -> None:
    """V2 = V1: each ramp ends in a promotion by evidence, and in no rollback, and every call is answered.

    The promotion is evidence enough for a rotation, however few calls V2 has served.
    """
    service = start_pair(rotate_min_calls=10**9)
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    for _ in range(RAMPS):
        with Traffic([service], program) as traffic:
            begin(service)
            wait_until(lambda: status(service)["state"] not in ("ramping", "waiting"), "the ramp ends", 120)
        assert (status(service)["state"], status(service)["canary_percent"]) == ("promoted", 100), status(service)
        assert {code for _, _, _, code in traffic.answers} == {None}
        assert newest_change(service) == ("judge", 100)
        assert newest_decision(service)["verdict"] == "promote"
    rotated = service.client.post("/rollout/rotate")
    assert (rotated.status_code, rotated.json()["canary_percent"]) == (200, 0), rotated.text


def versions_of_later_calls(traffic: Traffic, since: int) -> list[str]:
    """The versions of the calls that began after so many answers: a client's first one later may have begun before."""
    seen: set[int] = set()
    versions = []
    for number, _, version, _ in traffic.answers[since:]:
        if number % CLIENTS in seen:
            versions.append(version)
        seen.add(number % CLIENTS)
    return versions


def test_a_crashing_canary_is_rolled_back(start_pair: Callable[..., Service]) -> None:
    """V2 crashes in 5 % of its calls: the judge says so with examples, nothing reaches V2 afterwards, none is lost."""
    service = start_pair(CRASH_RATE=0.05)
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    for _ in range(RAMPS):
        with Traffic([service], program) as traffic:
            begin(service)
            wait_until(lambda: status(service)["state"] not in ("ramping", "waiting"), "the ramp ends", 120)
            ended = len(traffic.answers)
            traffic.wait_for(200)
        assert status(service)["state"] == "rolled_back", status(service)
        assert set(versions_of_later_calls(traffic, ended)) == {"v1"}
        assert service.metric("poolshift_rollback_last_dispatch_seconds") < 0.1
        outcomes = Counter((status_code, code) for _, status_code, _, code in traffic.answers)
        assert outcomes.keys() <= {(200, None), (502, "worker_crashed"), (503, "program_quarantined")}, outcomes
        wait_until(lambda: newest_change(service) == ("judge", 0), "the rollback, which is in force first, is written")
        decision = newest_decision(service)
        assert (decision["verdict"], decision["guardrail"]) == ("rollback", "engine")
        assert {one["code"] for one in decision["evidence"]["examples"]} <= {"worker_crashed", "program_quarantined"}
        assert decision["evidence"]["examples"][0]["execution_id"]


def test_a_raising_canary_is_rolled_back(start_pair: Callable[..., Service]) -> None:
    """V2's program raises in one call of twenty: the guardrail is the program's, and sessions do not mislead it."""
    service = start_pair(RAISE_RATE=0.05)
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer")
    with Traffic([service], program, sessions=5000):
        begin(service)
        wait_until(lambda: status(service)["state"] not in ("ramping", "waiting"), "the ramp ends", 120)
    decision = newest_decision(service)
    assert (decision["verdict"], decision["guardrail"]) == ("rollback", "program")
    rows = {row["name"]: row for row in decision["evidence"]["rows"]}
    assert rows["program"]["ratio"][0] > 1


def test_one_slow_program_is_rolled_back_beside_a_good_one(start_pair: Callable[..., Service]) -> None:
    """V2 is slow in a twentieth of one program's calls, diluted 1:1: the history names the guardrail and the program.

    On the way the analysis names the programs that are not shown to be as fast.
    """
    service = start_pair(TAIL_RATE=0.05, TAIL_S=0.2)
    slow = service.create("slow_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    good = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    begin(service, steps=[{"percent": 50, "hold_s": 3600, "min_calls": 100}])
    with Traffic([service], slow), Traffic([service], good) as traffic:
        traffic.wait_for(20)
        rows = {row["name"]: row for row in service.client.get("/rollout/analysis").json()}
        wait_until(lambda: status(service)["state"] == "rolled_back", "the judge acts", 120)
    assert {slow, good} >= set(rows["tail"]["not_shown"]) >= {slow}
    assert rows["engine"]["not_shown"] == []
    decision = newest_decision(service)
    assert (decision["verdict"], decision["guardrail"] in ("latency", "tail")) == ("rollback", True)
    wait_until(lambda: newest_change(service) == ("judge", 0), "the rollback is written")
    reason = service.client.get("/rollout/history").json()["items"][0]["reason"]
    assert f"most of V2's excess is of the program {slow}" in reason


def test_a_restart_goes_on_where_it_was(start_pair: Callable[..., Service]) -> None:
    """A paused or running ramp, its step and its evidence are there again after a SIGKILL."""
    service = start_pair()
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    steps = [{"percent": 50, "hold_s": 3600, "min_calls": 100}]
    with Traffic([service], program) as traffic:
        begin(service, steps=steps)
        traffic.wait_for(500)
    before = status(service)
    assert service.stop() == 0
    service.start()
    after = status(service)
    assert (after["state"], after["step"], after["canary_percent"]) == (before["state"], 1, 50)
    rows = {row["name"]: row for row in service.client.get("/rollout/analysis").json()}
    assert rows["engine"]["v2"]["calls"] > 100


def test_evidence_rolls_a_paused_ramp_back(start_pair: Callable[..., Service]) -> None:
    """A person pauses the ramp, and V2 fails every call from then on: the pause keeps no share for it."""
    service = start_pair(RAISE_RATE=1)
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer")
    begin(service, steps=[{"percent": 20, "hold_s": 3600, "min_calls": 100}])
    assert service.client.post("/rollout/pause", json={"reason": "lunch"}).json()["state"] == "paused"
    with Traffic([service], program) as traffic:
        wait_until(lambda: status(service)["state"] == "rolled_back", "the judge acts on the paused ramp", 60)
        ended = len(traffic.answers)
        traffic.wait_for(200)
    assert set(versions_of_later_calls(traffic, ended)) == {"v1"}
    assert (status(service)["by"], newest_decision(service)["guardrail"]) == ("judge", "program")


def test_evidence_of_one_build_counts_for_no_other(start_pair: Callable[..., Service], tmp_path: Path) -> None:
    """V2 has other variables after a restart amid a ramp: calls, hold and approval begin again, as the history says."""
    service = start_pair()
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    steps = [
        {"percent": 30, "hold_s": 3600, "min_calls": 1000, "approval": True},
        {"percent": 50, "hold_s": 3600},
    ]
    with Traffic([service], program) as traffic:
        begin(service, steps=steps)
        traffic.wait_for(500)
    assert service.client.post("/rollout/approve", json={"step": 1}).status_code == 200
    assert service.stop() == 0
    (tmp_path / "v2.env").write_text("RAISE_RATE=0.0001\n")
    service.start()
    wait_until(lambda: "V2's variables changed" in (status(service)["reason"] or ""), "it says what has changed")
    assert (status(service)["state"], status(service)["step"]) == ("ramping", 1)
    rows = {row["name"]: row for row in service.client.get("/rollout/analysis").json()}
    assert rows["engine"]["v2"]["calls"] == 0
    newest = service.client.get("/rollout/history").json()["items"][0]
    assert (newest["source"], newest["from_percent"], newest["to_percent"]) == ("plan", 30, 30)
    assert newest["reason"] == "evidence starts again: V2's variables changed"


def test_evidence_of_one_definition_counts_for_no_other(start_pair: Callable[..., Service]) -> None:
    """The service is killed as soon as the store has another definition of V2's own: the next start finds that.

    A change that it lives to tell is one line of the history, with the author's words.
    """
    service = start_pair()
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    own = f"/programs/{program}?pool_version=v2"
    body = {
        "program_type": "python",
        "entrypoint": "tests.support.programs:fails_by_environment",
        "signature": {"inputs": [CALL], "outputs": [{"name": "result", "type": "integer"}]},
        "idempotent": True,
    }
    begin(service, steps=[{"percent": 30, "hold_s": 3600, "min_calls": 1000, "approval": True}])
    assert service.client.put(own, json={**body, "instructions": "first"}).status_code == 201
    told = [f"evidence starts again: anonymous gave V2 a definition of its own of {program}"]
    assert approved_since(service, told)
    service.stop(signal.SIGKILL)
    with sqlite3.connect(service.directory / "poolshift.db") as connection:
        changed = "UPDATE programs SET v2_revision = 2, v2_definition = replace(v2_definition, 'first', 'second')"
        assert connection.execute(changed).rowcount == 1
    connection.close()
    service.start()
    told = [f"evidence starts again: V2's own definition of {program} changed"]
    wait_until(lambda: status(service)["reason"] == told[0], "it says what has changed")
    assert approved_since(service, told)
    service.stop(signal.SIGKILL)
    service.start()
    assert status(service)["reason"] == "looks good"
    assert service.client.delete(f"/programs/{program}").status_code == 204
    wait_until(lambda: status(service)["reason"] == told[0], "the program is gone, with V2's own definition")


CALL = {"name": "call", "type": "integer"}


def approved_since(service: Service, told: list[str]) -> bool:
    """Tells if the newest lines of the history are `told`; the step has no approval any more, and gets another."""
    items = service.client.get("/rollout/history").json()["items"]
    answer = service.client.post("/rollout/approve", json={"step": 1, "reason": "looks good"})
    return answer.status_code == 200 and [item["reason"] for item in items[: len(told)]] == told


@pytest.mark.parametrize("change", ["code", "lm"])
def test_another_canary_begins_with_no_evidence(start_pair: Callable[..., Service], change: str) -> None:
    """A reload of the code, or another LM, makes V2 something else: what was seen before does not count for it."""
    service = start_pair()
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    with Traffic([service], program) as traffic:
        begin(service, steps=[{"percent": 50, "hold_s": 3600, "min_calls": 100}])
        traffic.wait_for(300)
    assert judged(service) > 0
    if change == "lm":
        assert service.client.put("/lm", json={"model": "none"}).status_code == 200
    else:
        assert service.client.post("/pools/v2/reload").status_code == 200
    wait_until(lambda: judged(service) == 0, "the evidence starts again")
    assert status(service)["state"] == "ramping"
    did = "reloaded v2 (the same code, " if change == "code" else "set everyone's LM to none"
    assert status(service)["reason"].startswith(f"evidence starts again: anonymous {did}")
    history = service.client.get("/rollout/history").json()["items"]
    assert [(item["reason"] or "").partition(":")[0] for item in history].count("evidence starts again") == 1


def judged(service: Service) -> int:
    rows = {row["name"]: row for row in service.client.get("/rollout/analysis").json()}
    return int(rows["engine"]["v1"]["calls"] + rows["engine"]["v2"]["calls"])


def test_a_persons_change_pauses_the_plan(start_pair: Callable[..., Service]) -> None:
    """The percentage stays the person's until the plan is resumed, which brings its step back."""
    service = start_pair()
    begin(service)
    assert service.client.patch("/rollout", json={"canary_percent": 20}).status_code == 200
    wait_until(lambda: status(service)["state"] == "paused", "the plan is paused")
    assert status(service)["canary_percent"] == 20
    assert "20" in status(service)["reason"]
    assert service.client.post("/rollout/resume").json()["canary_percent"] == 10
    assert service.client.post("/rollout/start").json()["code"] == "plan_conflict"
    assert service.client.post("/rollout/abort", json={"reason": "enough"}).json()["state"] == "aborted"
    assert status(service)["canary_percent"] == 0


@pytest.mark.parametrize(
    ("plan", "place"),
    [
        ({"steps": []}, "steps"),
        ({"steps": [{"percent": 5, "hold_s": 1}, {"percent": 5, "hold_s": 1}]}, "rise"),
        ({"steps": [{"percent": 0.001, "hold_s": 1}]}, "percent"),
        ({"steps": [{"percent": 100, "hold_s": 1}]}, "below 100"),
        ({"steps": [{"percent": 5}]}, "hold_s"),
        ({"guardrails": {"nonsense": {"action": "pause"}}}, "nonsense"),
        ({"guardrails": {"upstream": {"action": "rollback", "share": 0.5}}}, "over 1"),
        ({"on_inconclusive": "rollback"}, "max_wait_s"),
        ({"on_inconclusive": "guess"}, "on_inconclusive"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(shared_service: Service, plan: dict[str, Any], place: str) -> None:
    """The answer says where."""
    answer = shared_service.client.put("/rollout/plan", json={**PLAN, **plan})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_plan")
    assert place in answer.json()["detail"]
