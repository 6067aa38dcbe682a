"""Evidence that V2's calls cost more: valid under "no more than r times", quick above that, and merged by addition."""

import json
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.costs import CostEvidence, CostReference, bin_of_cost, cost_of_bin
from analysis.counters import Counters
from analysis.evidence import Bench
from analysis.formulas.bets import FRACTIONS
from analysis.formulas.interval import cost_interval
from analysis.guardrails import GUARDRAILS, Config
from analysis.judge import Judge
from analysis.verdict import Evidence, Say

W = 0.2
COST = next(one for one in GUARDRAILS if one.name == "cost")


def evidence(judge: Judge) -> Evidence:
    return next(one for one in judge.evidence() if one.guardrail == "cost")


def calls(
    judge: Judge,
    seed: int,
    count: int,
    v2: Callable[[random.Random, float], float] = lambda _, cost: cost,
    *,
    sessions: int = 0,
    w: float = W,
) -> int | None:
    """Tells so many calls, whose costs drift and differ by session; returns the call at which `cost` alarms."""
    rng = random.Random(seed)
    for number in range(count):
        key = rng.randrange(sessions) if sessions else None
        coin = random.Random(f"{seed} {key}") if sessions else rng
        arm = "v2" if coin.random() < w else "v1"
        habit = 1 + (key or 0) % 7
        cost = 1e-4 * habit * (1 + number / count) * math.exp(rng.gauss(0, 0.5))
        judge.assigned(number, w, arm, key)
        told = v2(rng, cost) if arm == "v2" else cost
        judge.ended(number, w, arm, key, f"p{number % 3}", "ok", 10.0, cost=told)
        if number % 50 == 0 and evidence(judge).is_alarm:
            return number
    return None


@given(
    w=st.floats(0.001, 0.999),
    centre=st.floats(0.001, 0.999),
    ratio=st.floats(1, 5),
    true=st.floats(0, 1),
    now=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
)
def test_a_cost_is_no_evidence_in_the_mean_if_v2_costs_no_more(
    w: float, centre: float, ratio: float, true: float, now: list[tuple[float, float]]
) -> None:
    """Whatever a call's cost would be on each version: no factor is negative, and their mean is at most 1."""
    a, b, c, d = CostReference(1.0, centre, ()).gains(w, ratio)
    span = max(b, d - c)
    mean_v1 = sum(v1 for v1, _ in now) / len(now)
    mean_v2 = sum(v2 for _, v2 in now) / len(now)
    shrink = min(1.0, true * ratio * mean_v1 / mean_v2) if mean_v2 else 1.0
    for fraction in FRACTIONS:
        mean = 0.0
        for v1, v2 in now:
            on_v1, on_v2 = 1 + fraction / span * (c - d * v1), 1 + fraction / span * (a * v2 * shrink - b)
            assert min(on_v1, on_v2) >= -1e-9
            mean += ((1 - w) * on_v1 + w * on_v2) / len(now)
        assert mean <= 1 + 1e-9


@given(st.floats(1e-9, 1e5))
def test_a_bin_is_a_twentieth_wide(cost: float) -> None:
    assert cost_of_bin(bin_of_cost(cost)) == pytest.approx(cost, rel=0.03)
    assert cost_of_bin(0) == bin_of_cost(0.0) == 0


def test_no_alarm_if_v2_costs_the_same() -> None:
    """Drifting costs, sticky keys of different habits, and a V2 half of whose calls cost nothing or that is cheaper."""
    for seed in range(12):
        assert calls(Judge(), seed, 1500) is None, seed
        assert calls(Judge(), seed, 1500, sessions=600) is None, seed
        assert calls(Judge(), seed, 1500, lambda rng, cost: 2 * cost * (rng.random() < 0.5)) is None, seed
        assert calls(Judge(Config(c0=2.0)), seed, 1500, lambda _, cost: 1.9 * cost) is None, seed


@pytest.mark.parametrize(
    ("ratio", "w", "at_most"), [(1.5, 0.05, 1800), (1.5, 0.5, 1000), (3.0, 0.05, 800), (3.0, 0.5, 500)]
)
def test_a_dearer_v2_is_found(ratio: float, w: float, at_most: int) -> None:
    """In the median of nine ramps; the judge pauses, and says that V2 costs more."""
    found = sorted(calls(Judge(), seed, 3000, lambda _, cost: ratio * cost, w=w) or 3000 for seed in range(9))
    assert found[4] <= at_most, found
    judge = Judge()
    calls(judge, 1, 3000, lambda _, cost: ratio * cost, w=w)
    verdict = judge.look(1e6)
    assert (verdict.action, verdict.guardrail) == (Say.PAUSE, "cost")


def test_the_interval_has_the_ratio() -> None:
    """V2's mean cost over V1's is inside; the row tells the calls that count, and when a dearer V2 would be found."""
    judge = Judge()
    rng = random.Random(5)
    for number in range(6000):
        arm = "v2" if rng.random() < 0.5 else "v1"
        judge.assigned(number, 0.5, arm, None)
        judge.ended(number, 0.5, arm, None, "p", "ok", 10.0, cost=(1.3 if arm == "v2" else 1.0) * rng.uniform(0.8, 1.2))
    low, high = cost_interval(CostEvidence(judge.counters, 1.0), 0.01)
    assert 1.0 < low < 1.3
    assert high is not None
    assert 1.3 < high < 1.6
    row = next(one for one in judge.analysis() if one.name == "cost")
    assert row.ratio == (low, high)
    assert row.v1.calls + row.v2.calls == 5999  # the first call shows that the program has costs
    assert row.detectable.calls is not None


def test_programs_without_a_model_are_no_evidence() -> None:
    """A call without a cost counts only if its program has had one before, on either version."""
    judge = Judge()
    for number, (program, cost) in enumerate(
        [("a", 0.0), ("b", 1.0), ("a", 0.0), ("b", 0.0), ("b", math.nan), ("b", -1)]
    ):
        judge.assigned(number, W, "v1", None)
        judge.ended(number, W, "v1", None, program, "ok", 1.0, cost=cost)
    assert sum(sum(map(sum, one.values())) for one in judge.counters.costs.values()) == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3))
def test_costs_add_up_and_survive_json(seeds: list[int]) -> None:
    """Counters with costs merge by addition; those of a replica that knows no costs have none."""
    parts = []
    for seed in seeds:
        judge = Judge()
        calls(judge, seed, 150, sessions=seed % 2 * 20)
        parts.append(judge.counters)
    a, b, c = parts
    assert a.merge(b).merge(c).to_data() == c.merge(a.merge(b)).to_data()
    again = Counters.from_data(json.loads(json.dumps(a.to_data())))
    assert again.to_data() == a.to_data()
    assert Bench(Config(), again).look(COST).log_e == pytest.approx(Bench(Config(), a).look(COST).log_e)
    old = a.to_data()
    del old["costs"]
    assert Counters.from_data(old).costs == {}


@pytest.mark.parametrize("unknown", ["v1", "v2"])
def test_a_version_whose_cost_is_unknown_is_not_the_cheaper_one(unknown: str) -> None:
    """Programs with such a call count on neither version, so that nothing is told of them; other programs count on."""
    judge = Judge(Config())
    for number in range(2_000):
        arm = ("v1", "v2")[number % 2]
        for program, cost in (("priced", 1e-4), ("unpriced", None if arm == unknown else 1e-4)):
            judge.assigned(number, 0.5, arm, None)
            judge.ended(number, 0.5, arm, None, program, "ok", 10.0, cost=cost)
    counted = sum(sum(pair) for one in judge.counters.costs.values() for pair in one.values())
    assert counted == 1_999  # the first one only tells that the program has a cost
    low, high = cost_interval(Bench(Config(), judge.counters).costs, 0.05)
    assert low is not None
    assert high is not None
    assert low < 1 < high
