"""The estimate of when a promotion's evidence is there, against ramps that are played to their promotion."""

import math
import random
from statistics import median

import pytest

from analysis.guardrails import Config
from analysis.judge import Judge
from analysis.verdict import Say

RATE = 50.0
"""Calls per second."""


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
        found = [one.calls for one in ramp.judge.outstanding()]
        assert None not in found
        estimated.append(1000 + max(one for one in found if one is not None))
        came.append(ramp.until_promotion())
    assert 0.5 < median(estimated) / median(came) < 2, (estimated, came)


def test_nothing_is_outstanding_once_v2_may_be_promoted() -> None:
    """The list gets shorter with the calls, and its times are those of the rate that was seen."""
    ramp = Ramp(1)
    ramp.play(2000)
    first = ramp.judge.outstanding()
    assert {one.guardrail for one in first} <= {"engine", "program", "latency", "tail"}
    assert all(one.calls and one.seconds and one.seconds == pytest.approx(one.calls / RATE, rel=0.2) for one in first)
    ramp.until_promotion()
    assert ramp.judge.outstanding() == ()


def test_without_calls_nothing_can_be_foreseen() -> None:
    """Neither before the first call nor before there is a reference for times."""
    ramp = Ramp(1)
    assert ramp.judge.outstanding() == ()
    ramp.play(20)
    assert {one.guardrail for one in ramp.judge.outstanding() if one.calls is None} >= {"latency"}
