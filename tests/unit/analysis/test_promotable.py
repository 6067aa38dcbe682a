"""The estimate of when a promotion's evidence is there, against ramps that are played to their promotion."""

import math
import random
from statistics import median

import pytest

from analysis.guardrails import GUARDRAILS, Config
from analysis.judge import Judge
from analysis.verdict import Outstanding, Say, outstanding

RATE = 50.0
"""Calls per second."""


PROMOTING = {one.name for one in GUARDRAILS if one.promotes}


class Ramp:
    """An equal V2 at one share, with lognormal times and a program that fails in 1 % of its calls."""

    def __init__(self, seed: int, w: float = 0.5, faults: float = 0.01) -> None:
        self.judge = Judge(Config(steps=(w,)))
        self.calls = 0
        self._random = random.Random(seed)
        self._w = w
        self._faults = faults

    def play(self, calls: int) -> None:
        for _ in range(calls):
            self.calls += 1
            t = self.calls / RATE
            arm = "v2" if self._random.random() < self._w else "v1"
            self.judge.assigned(t, self._w, arm, None)
            outcome = "program_error" if self._random.random() < self._faults else "ok"
            ms = 20 * math.exp(self._random.gauss(0, 0.4))
            self.judge.ended(t, self._w, arm, None, "p", outcome, ms)
            if self.calls % 50 == 0:
                self.judge.look(t)

    def outstanding(self) -> list[Outstanding]:
        return outstanding(self.judge.analysis(), PROMOTING)

    def until_promotion(self) -> int:
        while self.judge.verdict.action is not Say.PROMOTE and self.calls < 200_000:
            self.play(250)
        return self.calls


@pytest.mark.parametrize("w", [0.5, 0.1])
def test_the_estimate_is_right_within_a_factor_of_two_for_most_ramps(w: float) -> None:
    """Made after 1,000 calls, of the guardrail that comes last, against the promotions that came."""
    estimated, came = [], []
    for seed in range(9):
        ramp = Ramp(seed, w)
        ramp.play(1000)
        found = [None if one.until is None else one.until.calls for one in ramp.outstanding()]
        assert None not in found
        estimated.append(1000 + max(one for one in found if one is not None))
        came.append(ramp.until_promotion())
    assert 0.5 < median(estimated) / median(came) < 2, (estimated, came)


def test_nothing_is_outstanding_once_v2_may_be_promoted() -> None:
    """The list gets shorter with the calls, and its times are those of the rate that was seen."""
    ramp = Ramp(1)
    ramp.play(2000)
    first = ramp.outstanding()
    assert {one.guardrail for one in first} <= PROMOTING
    untils = [one.until for one in first]
    assert all(one and one.seconds == pytest.approx(one.calls / RATE, rel=0.2) for one in untils)
    ramp.until_promotion()
    assert ramp.outstanding() == []


def test_the_evidence_of_other_replicas_counts_too() -> None:
    """Two replicas with half of the calls each miss as much as one with all, and their calls come twice as fast."""
    one, other = Ramp(1), Ramp(2)
    for ramp in (one, other):
        ramp.play(2000)
    alone = {row.name: row for row in one.judge.analysis_of_now()()}
    together = {row.name: row for row in one.judge.analysis_of_now(other.judge.counters)()}
    engine, sooner = alone["engine"].until_shown, together["engine"].until_shown
    assert engine is not None
    if sooner is not None:
        assert sooner.calls < engine.calls
        assert sooner.seconds == pytest.approx(sooner.calls / (2 * RATE), rel=0.2)
    assert alone["latency"].until_shown is not None or alone["latency"].is_shown


def test_without_calls_nothing_can_be_foreseen() -> None:
    """Neither before the first call nor before there is a reference for times."""
    ramp = Ramp(1)
    assert {one.until for one in ramp.outstanding()} == {None}
    ramp.play(20)
    assert {one.guardrail for one in ramp.outstanding() if one.until is None} >= {"latency"}
