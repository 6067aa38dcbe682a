"""The judge's guarantee, factor by factor: under "no worse" a factor's mean is at most 1, computed exactly."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.formulas.odds import (
    NOT_WORSE_PRIORS,
    NOT_WORSE_RATIOS,
    SPLIT_PRIORS,
    WORSE_PRIORS,
    WORSE_RATIOS,
    Mixture,
    log_factors,
    log_sum_exp,
    worse_than,
)
from analysis.guardrails import GUARDRAILS, OTHER_PROGRAMS
from analysis.latency_bins import FASTER_PRIORS, FINE_BINS, PRIORS, Reference
from analysis.own_times import AT_3_P99
from analysis.program_latency import FASTER, SLOWER, SLOWER_PRIORS, chance_ratios
from analysis.program_latency import FASTER_PRIORS as FASTER_PRIORS_BY_PROGRAM
from analysis.promotion import log_e_rarer_than
from analysis.ramp import copy_shares

probabilities = st.floats(0.001, 0.999)


def mean_factor(w: float, alternative: float, null: float, true: float) -> float:
    """The mean of an event's factor, given the past, if V2's hazard is `true` times V1's."""
    on_v2 = w * true / (1 - w + w * true)
    log_v1, log_v2 = log_factors(w, alternative, null)
    return (1 - on_v2) * math.exp(log_v1) + on_v2 * math.exp(log_v2)


def mean_factor_of_times(
    w: float, rho: Sequence[float], masses: Sequence[float], places: Sequence[tuple[int, int]]
) -> float:
    """The mean of a call's factor, if each mass has a place for V1 and one for V2 among the ratios `rho`."""
    mean = 0.0
    for mass, (on_v1, on_v2) in zip(masses, places, strict=True):
        log_v1, _ = log_factors(w, rho[on_v1])
        _, log_v2 = log_factors(w, rho[on_v2])
        mean += mass / sum(masses) * ((1 - w) * math.exp(log_v1) + w * math.exp(log_v2))
    return mean


@given(probabilities, st.sampled_from(WORSE_RATIOS), st.floats(1, 3), st.floats(0, 1))
def test_a_fault_is_no_evidence_in_the_mean_if_v2_is_no_worse(
    w: float, ratio: float, null: float, share: float
) -> None:
    assert mean_factor(w, null * ratio, null, null) == pytest.approx(1)
    assert mean_factor(w, null * ratio, null, share * null) <= 1 + 1e-9


@given(probabilities, st.sampled_from(NOT_WORSE_RATIOS), st.floats(1, 20))
def test_a_fault_is_no_evidence_for_promotion_in_the_mean_if_v2_is_worse_by_the_margin(
    w: float, ratio: float, times: float
) -> None:
    assert mean_factor(w, 2 * ratio, 2, 2 * times) <= 1 + 1e-9


@given(probabilities, st.lists(st.integers(0, 9), min_size=40, max_size=FINE_BINS), st.integers(0, 6))
@settings(max_examples=40)
def test_a_latency_is_no_evidence_in_the_mean_if_v2_is_no_slower(w: float, past: list[int], faster_by: int) -> None:
    """Whatever the reference was frozen from, and whatever the distribution is by now."""
    pooled = [*past, *[0] * (FINE_BINS - len(past))]
    pooled[20] += 64
    reference = Reference(pooled)
    now = [((bin_ * 7) % 11) + 1.0 for bin_ in range(FINE_BINS)]
    for rho in reference.worse:
        assert list(rho) == sorted(rho)
        places = [(reference.coarse[fine], reference.coarse[max(fine - faster_by, 0)]) for fine in range(FINE_BINS)]
        assert mean_factor_of_times(w, rho, now, places) <= 1 + 1e-9


@pytest.mark.parametrize("delta", SLOWER)
@given(probabilities, st.lists(st.integers(0, 9), min_size=AT_3_P99 + 1, max_size=AT_3_P99 + 1), st.integers(0, 4))
def test_a_rank_is_no_evidence_in_the_mean_if_v2_is_no_slower(
    delta: float, w: float, masses: list[int], faster_by: int
) -> None:
    """Whatever the ranks were frozen from: V1's calls may have any distribution over them by now."""
    rho = chance_ratios(delta)
    assert list(rho) == sorted(rho)
    masses[3] += 1
    places = [(rank, max(rank - faster_by, 0)) for rank in range(len(masses))]
    assert mean_factor_of_times(w, rho, masses, places) <= 1 + 1e-9


@pytest.mark.parametrize("delta", FASTER)
@given(probabilities, st.lists(st.integers(0, 9), min_size=AT_3_P99 + 1, max_size=AT_3_P99 + 1), st.integers(0, 4))
def test_a_rank_is_no_evidence_for_promotion_in_the_mean_if_v2_is_slower_by_the_margin(
    delta: float, w: float, masses: list[int], slower_by: int
) -> None:
    rho = chance_ratios(delta)
    assert list(rho) == sorted(rho, reverse=True)
    masses[3] += 1
    places = [(rank, min(rank + slower_by, AT_3_P99)) for rank in range(len(masses))]
    assert mean_factor_of_times(w, rho, masses, places) <= 1 + 1e-9


@given(st.floats(0.0001, 0.1), st.floats(1, 50))
def test_a_call_is_no_evidence_of_rarity_in_the_mean_if_faults_are_not_rare(floor: float, times: float) -> None:
    rate = min(floor * times, 1.0)
    mean = rate * math.exp(log_e_rarer_than(floor, 1, 1)) + (1 - rate) * math.exp(log_e_rarer_than(floor, 1, 0))
    assert mean <= 1 + 1e-9


@pytest.mark.parametrize(
    "priors",
    [WORSE_PRIORS, NOT_WORSE_PRIORS, SPLIT_PRIORS, PRIORS, FASTER_PRIORS, SLOWER_PRIORS, FASTER_PRIORS_BY_PROGRAM],
)
def test_priors_are_an_average(priors: tuple[float, ...]) -> None:
    assert sum(priors) == pytest.approx(1)


@given(st.integers(1, 256), st.integers(0, 300))
def test_programs_share_no_more_than_their_weight(room: int, programs: int) -> None:
    """A judge may merge the ranks of replicas whose first programs are others: the first that it finds count."""
    for guardrail in GUARDRAILS:
        named = [guardrail.weight_of(f"p{number}", room) for number in range(min(programs, room))]
        assert sum(named) + guardrail.weight_of(OTHER_PROGRAMS, room) <= guardrail.by_program + 1e-9


@pytest.mark.parametrize("guardrail", GUARDRAILS, ids=lambda one: str(one.name))
def test_strata_are_an_average(guardrail: object) -> None:
    assert guardrail in GUARDRAILS
    assert all(0 <= one.pooled <= 1 for one in GUARDRAILS)


@given(st.lists(st.tuples(probabilities, st.integers(0, 3)), max_size=40), st.lists(probabilities, max_size=12))
def test_start_copies_share_no_more_than_alpha(steps: list[tuple[float, int]], planned: list[float]) -> None:
    assert sum(copy_shares(sorted(set(steps)), sorted(set(planned)))) <= 1 + 1e-9


@given(st.lists(st.tuples(probabilities, st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=5))
def test_the_counter_form_is_the_running_product(cells: list[tuple[float, int, int]]) -> None:
    """Counts by step give the same e-value as multiplying factor by factor, for each alternative."""
    products = [1.0] * len(WORSE_RATIOS)
    for w, v1, v2 in cells:
        for index, ratio in enumerate(WORSE_RATIOS):
            log_v1, log_v2 = log_factors(w, ratio)
            for _ in range(v1):
                products[index] *= math.exp(log_v1)
            for _ in range(v2):
                products[index] *= math.exp(log_v2)
    mixture = sum(prior * product for prior, product in zip(WORSE_PRIORS, products, strict=True))
    assert worse_than(1.0).log_e(cells) == pytest.approx(math.log(mixture), abs=1e-6)


def test_a_whole_ramp_has_the_mean_1_if_v2_is_as_good() -> None:
    """Every outcome of eight faults, summed: the e-value's mean is 1."""
    weights = (0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5)
    test = Mixture(1.0, WORSE_RATIOS, WORSE_PRIORS)
    mean = 0.0
    for outcome in range(2 ** len(weights)):
        arms = [outcome >> place & 1 for place in range(len(weights))]
        probability = math.prod(w if arm else 1 - w for w, arm in zip(weights, arms, strict=True))
        mean += probability * math.exp(test.log_e([(w, 1 - arm, arm) for w, arm in zip(weights, arms, strict=True)]))
    assert mean == pytest.approx(1)


def test_logarithms_add_without_overflow() -> None:
    assert log_sum_exp([1000.0, 1000.0]) == pytest.approx(1000 + math.log(2))
    assert log_sum_exp([-math.inf, -math.inf]) == -math.inf
