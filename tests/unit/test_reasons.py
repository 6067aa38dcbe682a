"""The words for the evidence behind a verdict."""

import re

import pytest

from analysis.guardrails import Config
from analysis.judge import Judge
from routing.rollout.reasons import TimedCall, reason

SLOW, QUICK = "report", "lookup"


def judged(*, outcome: str = "ok", of: str = SLOW) -> Judge:
    """A judge of 400 calls, in which V2's calls of one program are slow, or end otherwise."""
    judge = Judge(Config())
    for number in range(400):
        arm, program = ("v1", "v2")[number % 2], (SLOW, QUICK)[number // 2 % 2]
        is_worse = number >= 200 and arm == "v2" and program == of
        judge.assigned(number, 0.5, arm, None)
        judge.ended(number, 0.5, arm, None, program, outcome if is_worse else "ok", 900.0 if is_worse else 10.0)
    return judge


@pytest.mark.parametrize(
    ("guardrail", "outcome", "says"),
    [
        ("engine", "worker_crashed", "V2 has 50 faults in 200 calls, V1 0 in 200; most of V2's by the program report"),
        ("program", "program_error", "V2 has 50 faults in 200 calls, V1 0 in 200; most of V2's by the program report"),
        ("upstream", "lm_error", "V2 has 50 faults in 200 calls, V1 0 in 200; most of V2's by the program report"),
        ("tail", "ok", r"V2 has \d+ slow ones in 200 calls, V1 0 in 200; most of V2's by the program report"),
        ("srm", "ok", "V2 was given 200 of 400 calls"),
        ("quality", "ok", ""),
    ],
)
def test_counts_name_the_program(guardrail: str, outcome: str, says: str) -> None:
    """Whatever the guardrail counts."""
    assert re.fullmatch(says, reason(guardrail, judged(outcome=outcome).counters, ()))


def test_slowness_names_times_and_the_program() -> None:
    """The quantile at which the versions differ most."""
    usual = [TimedCall(version, program, 10.0) for version in ("v1", "v2") for program in (SLOW, QUICK)] * 50
    slow = [TimedCall("v2", SLOW, 40.0)] * 20
    says = reason("latency", judged().counters, [*usual, *slow])
    assert says == "V2 takes 40 ms at p90, V1 10 ms; most of V2's by the program report"


def test_no_program_is_blamed_for_what_all_do() -> None:
    """A version that is slower with all programs alike."""
    times = {"v1": 10.0, "v2": 30.0}
    calls = [TimedCall(version, program, ms) for version, ms in times.items() for program in (SLOW, QUICK)] * 50
    assert reason("latency", judged().counters, calls) == "V2 takes 30 ms at the median, V1 10 ms"
    assert reason("latency", judged().counters, calls[:2]) == ""


def test_costs_are_told_for_each_call() -> None:
    """The means of both versions, also of calls that cost nothing; no text before both have one."""
    judge = Judge(Config())
    for number in range(400):
        arm = ("v1", "v2")[number % 2]
        cost = (0.0, 3e-5)[number // 2 % 2] * (2 if arm == "v2" else 1)
        judge.assigned(number, 0.5, arm, None)
        if number == 1:
            assert reason("cost", judge.counters, ()) == ""
        judge.ended(number, 0.5, arm, None, SLOW, "ok", 10.0, cost=cost)
    assert reason("cost", judge.counters, ()) == "1,000 calls cost 0.031 on V2, 0.015 on V1"
