"""The words for the evidence behind a verdict."""

import random
import re

import pytest

from analysis.guardrails import Config
from analysis.judge import Judge
from analysis.odd_ones import Comparisons
from analysis.quality import QualityScores
from routing.rollout.reasons import TimedCall, odd_ones_reason, reason, scores_reason

SLOW, QUICK = "report", "lookup"
OF_REPORT = "; most of V2's excess is of the program report"
NONE_OF_V1 = "where V1's rate gives 0.0"


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
        ("engine", "worker_crashed", f"V2 has 50 faults in 200 calls, V1 0 in 200{OF_REPORT}: 50 events, {NONE_OF_V1}"),
        ("program", "program_error", f"V2 has 50 faults in 200 calls, V1 0 in 200{OF_REPORT}: 50 events, {NONE_OF_V1}"),
        ("upstream", "lm_error", f"V2 has 50 faults in 200 calls, V1 0 in 200{OF_REPORT}: 50 events, {NONE_OF_V1}"),
        ("tail", "ok", rf"V2 has \d+ slow ones in 200 calls, V1 0 in 200{OF_REPORT}: \d+ events, {NONE_OF_V1}"),
        ("srm", "ok", "V2 was given 200 of 400 calls"),
        ("quality", "ok", ""),
    ],
)
def test_counts_name_the_program(guardrail: str, outcome: str, says: str) -> None:
    """Whatever the guardrail counts."""
    assert re.fullmatch(says, reason(guardrail, judged(outcome=outcome).counters, ()))


@pytest.mark.parametrize("w", [0.05, 0.5])
def test_a_program_that_fails_alike_on_both_is_not_blamed(w: float) -> None:
    """Although most of V2's faults are of it: the excess over V1 is another program's."""
    judge, rng = Judge(Config()), random.Random(5)
    for number in range(20_000):
        arm, program = "v2" if rng.random() < w else "v1", rng.choices(("bad", "rare"), (0.9, 0.1))[0]
        share = 0.2 if program == "bad" else 0.5 if arm == "v2" else 0.0
        judge.assigned(number, w, arm, None)
        judge.ended(number, w, arm, None, program, "program_error" if rng.random() < share else "ok", 10.0)
    says = reason("program", judge.counters, ())
    assert re.search(rf"; most of V2's excess is of the program rare: \d+ events, {NONE_OF_V1}$", says), says


def test_a_program_with_long_calls_is_not_blamed_for_another_that_is_slower() -> None:
    """The program `long` takes both versions now 10, now 100 ms; `quick` takes V2 twice V1's time."""
    long = [TimedCall(version, "long", ms) for version in ("v1", "v2") for ms in (10.0, 10.0, 10.0, 100.0)] * 50
    quick = [TimedCall(version, "quick", ms) for version, ms in (("v1", 20.0), ("v2", 40.0))] * 50
    assert reason("latency", judged().counters, [*long, *quick]).endswith("excess is of the program quick")


def test_slowness_names_times_and_the_program() -> None:
    """The quantile at which the versions differ most."""
    usual = [TimedCall(version, program, 10.0) for version in ("v1", "v2") for program in (SLOW, QUICK)] * 50
    slow = [TimedCall("v2", SLOW, 40.0)] * 20
    says = reason("latency", judged().counters, [*usual, *slow])
    assert says == f"V2 takes 40 ms at p90, V1 10 ms{OF_REPORT}"


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


def test_differences_are_told_in_counts() -> None:
    """The output that speaks most against V2, and its program."""
    comparisons = Comparisons()
    assert odd_ones_reason(comparisons) == ""
    for number in range(1200):
        comparisons.same(("invoice", "currency"))
        if number % 100:
            comparisons.same(("invoice", "total"))
        else:
            comparisons.differs(("invoice", "total"), "v2" if number else "v1")
    assert odd_ones_reason(comparisons) == (
        "V2 is the odd one in 11 of 1,200 compared calls, V1 in 1, by total of the program invoice"
    )


def test_scores_are_told_as_means() -> None:
    """The means of both versions, with the program that V2 loses most by."""
    scores = QualityScores()
    assert scores_reason(scores) == ""
    for _ in range(100):
        scores.pair("answer", 0.9, 0.4)
        scores.pair("lookup", 0.5, 0.5)
    assert scores_reason(scores) == (
        "V2's mean score is 0.450 in 200 calls, V1's 0.700 in 200; most of V2's loss is of the program answer"
    )
