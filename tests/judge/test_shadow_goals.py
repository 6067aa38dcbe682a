"""The goals of shadow runs and of quality on simulated calls, with fixed seeds."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from analysis.odd_ones import ALPHA, Comparisons, Odd
from analysis.quality import QualityScores
from tests.judge.test_goals import most_by_chance

pytestmark = pytest.mark.judge

PROGRAMS = 50
REPORTS = 1000
CALLS_A_REPORT = 1500

Source = Callable[[random.Random, int], Any]
"""A value of a program's field on the `number`-th call."""


def steady(rng: random.Random, number: int) -> Any:
    return number % 7


def random_order(rng: random.Random, number: int) -> Any:
    return tuple(rng.sample(range(3), 3))


def clock(rng: random.Random, number: int) -> Any:
    """Milliseconds that go on between the runs of a call."""
    rng.clock = getattr(rng, "clock", 0) + rng.randrange(3)  # type: ignore[attr-defined]
    return rng.clock  # type: ignore[attr-defined]


def warm_lm(rng: random.Random, number: int) -> Any:
    """A class that a language model at temperature 1 chooses, surely for some inputs and not for others."""
    return rng.random() < (0.5, 0.97, 0.999)[number % 3]


def rare_noise(rng: random.Random, number: int) -> Any:
    return rng.random() < 0.002


SOURCES: tuple[Source, ...] = (steady, random_order, clock, warm_lm, rare_noise)


def compare(comparisons: Comparisons, field: tuple[str, str], v1: Any, v2: Any, again: Callable[[], Any]) -> None:
    """Counts one call as the service does: the third run only if the first two differ."""
    if v1 == v2:
        comparisons.same(field)
        return
    third = again()
    odd: Odd = "v2" if third == v1 else "v1" if third == v2 else "none"
    comparisons.differs(field, odd)


def report_without_difference(seed: int) -> Comparisons:
    rng = random.Random(seed)
    comparisons = Comparisons()
    for number in range(CALLS_A_REPORT):
        program = rng.randrange(PROGRAMS)
        source = SOURCES[program % len(SOURCES)]
        v1, v2 = source(rng, number), source(rng, number)
        compare(comparisons, (f"p{program}", "out"), v1, v2, lambda: source(rng, number))  # noqa: B023
    return comparisons


def test_equal_versions_do_not_differ() -> None:
    """At most 1 % of reports over 50 programs, most of them noisy, ever call any field different."""
    false = sum(any(row.differs for row in report_without_difference(seed).rows()) for seed in range(REPORTS))
    assert false <= most_by_chance(REPORTS, 0.01)


def ever_found_by_replicas(seed: int, replicas: int = 3, looks: int = 30) -> bool:
    """Tells if any of some replicas ever calls a field different, on the sums that they exchange now and then."""
    rng = random.Random(seed)
    own = [Comparisons() for _ in range(replicas)]
    for number in range(CALLS_A_REPORT):
        program = rng.randrange(PROGRAMS)
        source = SOURCES[program % len(SOURCES)]
        v1, v2 = source(rng, number), source(rng, number)
        compare(rng.choice(own), (f"p{program}", "out"), v1, v2, lambda: source(rng, number))  # noqa: B023
        if number % (CALLS_A_REPORT // looks) == 0:
            told = [Comparisons.from_data(one.to_data(), one.found) for one in own]
            for index, one in enumerate(own):
                others = [other for at, other in enumerate(told) if at != index]
                one.reserve(max(other.active for other in others))
                if one.merge(others[0]).merge(others[1]).evidence("shadow", ALPHA).is_alarm:
                    return True
    return False


def test_equal_versions_do_not_differ_for_several_replicas() -> None:
    """The same goal for three replicas that add their counts up, at every one of 30 looks."""
    false = sum(map(ever_found_by_replicas, range(REPORTS)))
    assert false <= most_by_chance(REPORTS, 0.01)


@pytest.mark.parametrize("noisy", [0, 20])
def test_a_rounding_difference_is_found_and_named(noisy: int) -> None:
    """2 % of one field of one program, beside noisy programs: found within 1,000 of its calls."""
    found = []
    for seed in range(200):
        rng = random.Random(seed)
        comparisons = Comparisons()
        for program in range(noisy):
            for number in range(60):
                v1, v2, v3 = (random_order(rng, number) for _ in range(3))
                compare(comparisons, (f"p{program}", "out"), v1, v2, lambda v3=v3: v3)  # type: ignore[misc]
        for _ in range(1000):
            rounds_differently = rng.random() < 0.02
            compare(comparisons, ("invoice", "total"), 1.24, 1.25 if rounds_differently else 1.24, lambda: 1.24)
        found.append([(row.program, row.field) for row in comparisons.rows() if row.differs])
    in_time = sum(("invoice", "total") in one for one in found)
    assert in_time >= (190 if noisy == 0 else 160)
    assert sum(len(one) > 1 for one in found) <= most_by_chance(200, 0.01)


def alarm_after(seed: int, v1: float, v2: float, pairs: int, *, correlation: float = 0.0) -> int | None:
    """Pairs until quality is an alarm, with scores of 0 or 1 of these means."""
    rng, scores = random.Random(seed), QualityScores()
    for number in range(1, pairs + 1):
        first = rng.random()
        second = first if rng.random() < correlation else rng.random()
        scores.pair("answer", float(first < v1), float(second < v2))
        if number % 5 == 0 and scores.evidence("quality", 0.001).is_alarm:
            return number
    return None


@pytest.mark.parametrize("mean", [0.9, 0.7, 0.5])
def test_a_halved_metric_is_stopped_within_300_pairs(mean: float) -> None:
    found = [alarm_after(seed, mean, mean / 2, 300) for seed in range(100)]
    assert sum(one is not None for one in found) >= 90


def test_an_equal_metric_is_not_stopped() -> None:
    found = [alarm_after(seed, 0.6, 0.6, 1000) for seed in range(150)]
    assert sum(one is not None for one in found) <= most_by_chance(150, 0.001)


def test_a_metric_that_rises_by_a_tenth_is_promotable() -> None:
    promotable = stopped = 0
    for seed in range(60):
        rng, scores = random.Random(seed), QualityScores()
        for _ in range(2000):
            scores.pair("answer", float(rng.random() < 0.7), float(rng.random() < 0.77))
        promotable += scores.row(None, 0.001).not_worse
        stopped += scores.evidence("quality", 0.001).is_alarm
    assert promotable >= 55
    assert not stopped


@pytest.mark.parametrize(("worse", "expected"), [(0.0, False), (0.4, True)])
def test_organic_scores_find_a_worse_version_at_any_share(worse: float, expected: bool) -> None:
    """Calls are assigned at 5 % and then at 25 %, while the mean of both versions drifts."""
    alarms = 0
    for seed in range(20):
        rng, scores = random.Random(seed), QualityScores()
        for number in range(6000):
            w = 0.05 if number < 2000 else 0.25
            mean = 0.5 + 0.3 * (number / 6000)
            version = int(rng.random() < w)
            scores.scored("answer", w, version, float(rng.random() < mean - worse * version))
        alarms += scores.evidence("quality", 0.001).is_alarm
    assert alarms >= 18 if expected else alarms <= most_by_chance(20, 0.001)
