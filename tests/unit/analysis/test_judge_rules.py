"""The rules for what counts: keys, incidents, cold calls, steps, malformed calls."""

import math
from typing import Any

import pytest

import analysis.judge
from analysis.counters import total
from analysis.guardrails import GUARDRAIL_OF, Config
from analysis.incidents import Incidents
from analysis.judge import Judge
from analysis.keys import LIMIT, KeyMarks
from tests.unit.analysis.calls import Told, random_calls, tell, told_all


def fault(t: float, key: int | None = None, w: float = 0.1, arm: str = "v2", outcome: str = "worker_crashed") -> Told:
    return Told(t, w, arm, key, "p", outcome, 5.0)


def events(judge: Judge, guardrail: str = "engine") -> tuple[int, int]:
    return total(pair for key, pair in judge.counters.events.items() if key[0] == guardrail)


def test_a_key_counts_once() -> None:
    assert events(told_all([fault(t, key=7) for t in range(20)])) == (0, 1)
    assert events(told_all([fault(t) for t in range(20)])) == (0, 20)


def test_a_key_counts_again_in_the_copy_of_a_later_step() -> None:
    judge = told_all([fault(1, key=7), fault(2, key=7, w=0.2), fault(3, key=7, w=0.2)])
    assert sorted(judge.counters.events) == [
        ("engine", 0, 0, "worker_crashed", "p"),
        ("engine", 1, 1, "worker_crashed", "p"),
    ]


def test_an_incident_counts_once_whatever_its_version() -> None:
    told = [fault(1 + i / 100, arm="v1" if i % 2 else "v2") for i in range(10)]
    assert events(told_all(told)) == (0, 1)
    assert events(told_all([*told, fault(2.0, outcome="program_error")]), "program") == (0, 1)


def test_an_incident_ends_if_faults_go_on_for_long() -> None:
    incidents = Incidents()
    assert 40 <= sum(incidents.is_new("engine", number / 100) for number in range(500)) <= 60


def test_incidents_survive_a_clock_that_jumps() -> None:
    incidents = Incidents()
    assert [incidents.is_new("engine", t) for t in (100.0, 1.0, 1.05, 5000.0, 2.0)] == [True, True, False, True, True]


def test_cold_calls_are_left_out_of_latency() -> None:
    judge = Judge()
    judge.assigned(0, 0.1, "v2", None)
    judge.ended(0, 0.1, "v2", None, "p", "ok", 5.0, is_cold=True)
    assert not judge.counters.latency
    judge.ended(0, 0.1, "v2", 5, "p", "ok", 5.0)
    judge.ended(0, 0.1, "v2", 5, "p", "ok", 5.0)
    assert total(pair for one in judge.counters.latency.values() for pair in one.values()) == (0, 1)


def test_an_attempt_that_failed_counts_although_its_call_succeeded() -> None:
    judge = Judge()
    judge.assigned(0, 0.1, "v2", None)
    assert judge.attempt_failed(0, 0.1, "v2", None, "p", "worker_crashed") == "engine"
    assert judge.ended(1, 0.1, "v2", None, "p", "ok", 5.0) is None
    assert events(judge) == (0, 1)


@pytest.mark.parametrize("outcome", ["invalid_request", "quota_exceeded", "session_not_found", "nonsense", ""])
def test_other_codes_judge_nothing(outcome: str) -> None:
    assert not told_all([fault(1, outcome=outcome)]).counters.events


@pytest.mark.parametrize(("code", "guardrail"), GUARDRAIL_OF.items())
def test_each_code_judges_its_guardrail(code: str, guardrail: str) -> None:
    assert events(told_all([fault(1, outcome=code)]), guardrail) == (0, 1)


def test_a_ramp_that_falls_begins_again_without_evidence() -> None:
    judge = told_all([fault(t, w=0.1) for t in range(5)])
    tell(judge, fault(9, w=0.05))
    assert judge.counters.steps == [(0.05, 0)]
    assert events(judge) == (0, 1)


def test_a_call_that_ends_late_counts_in_its_own_step() -> None:
    judge = told_all([fault(1, w=0.1), fault(2, w=0.2)])
    judge.ended(3, 0.1, "v1", None, "p", "worker_crashed", 5.0)
    assert judge.counters.events["engine", 0, 0, "worker_crashed", "p"] == [1, 1]


def test_stragglers_of_a_trace_are_no_fall() -> None:
    judge = Judge(Config(stragglers=100))
    for number in range(60):
        tell(judge, fault(number, w=0.1 if number % 3 else 0.05))
    assert judge.counters.steps == [(0.05, 0), (0.1, 0)]
    for number in range(150):
        tell(judge, fault(60 + number, w=0.05))
    assert judge.counters.steps == [(0.05, 0)]


@pytest.mark.parametrize("w", [0.0, 1.0, -0.5, 1.5, math.nan, math.inf])
def test_calls_without_both_versions_are_no_evidence(w: float) -> None:
    judge = told_all([fault(1, w=w)])
    assert judge.counters.steps == []
    judge.look(1)


@pytest.mark.skipif(not analysis.judge.__file__.endswith(".py"), reason="compiled, a call checks its types itself")
@pytest.mark.parametrize(
    "call",
    [
        ("x", 0.1, "v2", None, "p", "ok", 1.0),
        (1.0, "x", "v2", None, "p", "ok", 1.0),
        (1.0, None, None, None, None, None, None),
        (1.0, 0.1, 3, [], {}, [], "x"),
        (math.nan, 0.1, "v2", 2**80, "p", "worker_crashed", math.nan),
        (1.0, 0.1, "v2", -1, "p", "ok", -math.inf),
        (1.0, 0.1, "v2", "key", "p", "ok", 0.0),
    ],
)
def test_a_malformed_call_never_breaks_the_judge(call: tuple[Any, ...]) -> None:
    judge = told_all(list(random_calls(1, 300)))
    t, w, arm, key, program, outcome, ms = call
    judge.assigned(t, w, arm, key)
    judge.ended(t, w, arm, key, program, outcome, ms)
    judge.attempt_failed(t, w, arm, key, program, outcome)
    assert judge.look(1000.0).action == "continue"


def test_keys_are_sampled_when_there_are_too_many() -> None:
    marks = KeyMarks()
    for key in range(3 * LIMIT):
        hashed = key * 0x9E3779B97F4A7C15 % 2**64
        if marks.first_copy(hashed, 0) == 0:
            marks.mark(hashed, 0)
    assert LIMIT / 4 < len(marks) <= LIMIT
    assert marks.first_copy(None, 3) == 0


def test_replicas_own_disjoint_keys() -> None:
    shards = [KeyMarks(0, shard, 3) for shard in range(3)]
    for key in range(1000):
        hashed = key * 0xBF58476D1CE4E5B9 % 2**64
        assert sum(marks.first_copy(hashed, 0) == 0 for marks in shards) == 1


def test_a_judge_that_was_restarted_begins_a_new_copy() -> None:
    before = told_all([fault(1, key=7), fault(2)])
    judge = Judge(Config(), before.counters)
    tell(judge, fault(5, key=7))
    tell(judge, fault(6))
    assert judge.counters.steps == [(0.1, 0), (0.1, 1)]
    assert judge.counters.events["engine", 1, 1, "worker_crashed", "p"] == [0, 1]
    assert judge.counters.events["engine", 0, 1, "worker_crashed", "p"] == [0, 1]
