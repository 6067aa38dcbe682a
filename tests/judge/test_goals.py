"""The judge's goals on simulated ramps, with fixed seeds. A goal fails if the simulation refutes it at 99 %."""

import math
from dataclasses import replace

import pytest

from bench.judge.measure import Found, ramps
from bench.judge.scenarios import HEALTHY, REGRESSIONS
from bench.judge.traces import Scenario

pytestmark = pytest.mark.judge

SEEDS = range(500, 521)
HEALTHY_SEEDS = range(500, 505)
LEAST_IN_TIME = 5
"""Least count, of 21 ramps, in time: fewer have a probability under 1 % if the median is within the goal."""


def most_by_chance(ramps_: int, probability: float) -> int:
    """The number of ramps that is exceeded with a probability under 1 %."""
    below = 0.0
    for count in range(ramps_ + 1):
        below += math.comb(ramps_, count) * probability**count * (1 - probability) ** (ramps_ - count)
        if below >= 0.99:
            return count
    return ramps_


def in_time(found: list[Found], verdict: str, goal: int) -> int:
    return sum(one.first.get(verdict, 10**9) <= goal for one in found)


@pytest.mark.parametrize(("scenario", "verdict", "goal"), REGRESSIONS, ids=[one.name for one, _, _ in REGRESSIONS])
def test_regression_is_found_in_time(scenario: Scenario, verdict: str, goal: int) -> None:
    found = ramps(scenario, SEEDS)
    assert in_time(found, verdict, goal) >= LEAST_IN_TIME
    assert sum("promote" in one.first for one in found) <= most_by_chance(len(found), 0.05)


def test_healthy_ramps_are_not_rolled_back() -> None:
    """Whatever drifts for both versions alike: at most 1 % of all healthy ramps."""
    found = [(scenario.name, one) for scenario in HEALTHY for one in ramps(scenario, HEALTHY_SEEDS)]
    rolled_back = [(name, one) for name, one in found if "rollback" in one.first]
    assert len(rolled_back) <= most_by_chance(len(found), 0.01), rolled_back


@pytest.mark.parametrize(
    "worse", [{"v2_engine": 2.0}, {"v2_latency": 1.25}, {"v2_program": 5.0}], ids=["engine", "latency", "program"]
)
def test_a_regression_on_the_last_step_is_not_promoted(worse: dict[str, float]) -> None:
    scenario = replace(Scenario("late", keyed=0.1, v2_from=0.5), **worse)  # type: ignore[arg-type]
    found = ramps(scenario, range(500, 520))
    assert sum("promote" in one.first for one in found) <= most_by_chance(len(found), 0.05)


def test_most_healthy_ramps_are_promoted() -> None:
    found = ramps(Scenario("healthy", keyed=0.1), range(500, 510))
    assert sum("promote" in one.first for one in found) >= 5
