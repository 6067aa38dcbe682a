"""The detector of a V2 that becomes worse after its promotion: its guarantee, exactly and simulated, and its speed."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.relapse import (
    BASELINE_ALPHA,
    MARGIN,
    RelapseDetector,
    Seen,
    _Stratum,
    upper_bound,
)

LOOKS, ALPHA = 1000, 0.01
CALM = {"a": Seen(5000, 5), "b": Seen(50, 0)}


@given(st.integers(0, 4), st.integers(0, 2), st.floats(0, 1))
def test_a_look_adds_one_in_the_mean_at_the_most(calls: int, before: int, share: float) -> None:
    """For any rate up to the null's, after any past: the mean of M after a look is at most M + 1 before it."""
    baseline = Seen(200, 2)

    def m_after(faults: int) -> float:
        stratum = _Stratum(baseline, 1.0)
        stratum.look(Seen(10, before))
        stratum.look(Seen(calls, faults))
        return math.exp(stratum.log_m)

    past = _Stratum(baseline, 1.0)
    past.look(Seen(10, before))
    rate = share * MARGIN * upper_bound(baseline, BASELINE_ALPHA)
    mean = sum(
        math.comb(calls, faults) * rate**faults * (1 - rate) ** (calls - faults) * m_after(faults)
        for faults in range(calls + 1)
    )
    assert mean <= (math.exp(past.log_m) + 1) * (1 + 1e-9)


@pytest.mark.parametrize("seen", [Seen(0, 0), Seen(10, 0), Seen(1000, 3), Seen(1000, 1000)])
def test_the_bound_is_above_the_rate_and_shrinks(seen: Seen) -> None:
    bound = upper_bound(seen, 0.001)
    assert seen.faults / max(seen.calls, 1) <= bound <= 1
    if seen == Seen(10, 0):
        assert bound == pytest.approx(1 - 0.001 ** (1 / 10))
    assert upper_bound(Seen(10 * seen.calls, 10 * seen.faults), 0.001) <= bound


def first_alarm(detector: RelapseDetector, rates: dict[str, float], looks: int, seed: str) -> tuple[int, str] | None:
    """The look at which the detector alarms, with its program, at 20 calls of each program a look."""
    rng = random.Random(seed)
    for look in range(1, looks + 1):
        since = {name: Seen(20, sum(rng.random() < rate for _ in range(20))) for name, rate in rates.items()}
        if (found := detector.look(since)) is not None:
            return look, found.program
    return None


@pytest.mark.parametrize(("rate", "within"), [(0.1, 15), (0.02, 200)])
def test_a_bomb_is_found_soon(rate: float, within: int) -> None:
    """One call of ten that fails is found within seconds, one of fifty within minutes."""
    found = first_alarm(RelapseDetector(CALM, LOOKS, ALPHA), {"a": rate}, 5000, "bomb")
    assert found is not None
    assert found[0] <= within


def test_a_rare_program_that_breaks_is_named() -> None:
    """A program in a thousand calls that fails each time is few faults among all calls, and all of its own."""
    detector, rng = RelapseDetector(CALM, LOOKS, ALPHA), random.Random("rare")
    for _ in range(200):
        found = detector.look({"a": Seen(2000, sum(rng.random() < 0.001 for _ in range(2000))), "b": Seen(1, 1)})
        if found is not None:
            assert found.program == "b"
            return
    raise AssertionError("it is not found")


def test_without_a_last_step_there_is_nothing_to_compare_with() -> None:
    detector = RelapseDetector({}, LOOKS, ALPHA)
    assert detector.look({"a": Seen(100, 100)}) is None


@pytest.mark.judge
@pytest.mark.parametrize("growth", [1.0, 1.4])
def test_false_alarms_are_as_rare_as_is_said(growth: float) -> None:
    """V2 goes on as on its last step, or as bad as the margin allows: at most 1 % of 1,000 looks have an alarm."""
    alarms, watches, rate = 0, 400, 0.005
    for seed in range(watches):
        rng = random.Random(f"last step {seed}")
        baseline = {"a": Seen(2000, sum(rng.random() < rate for _ in range(2000)))}
        detector = RelapseDetector(baseline, LOOKS, ALPHA)
        alarms += first_alarm(detector, {"a": growth * rate}, LOOKS, f"watch {seed}") is not None
    assert alarms <= ALPHA * watches + 3 * math.sqrt(ALPHA * watches)
