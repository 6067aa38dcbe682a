"""Always-valid intervals: every ratio that neither one-sided test rejects.

A confidence sequence at 1 − α: the ratios r for which the test of "V2's ratio is at most r" and that of "at least r"
both have E < 2/α (Lindon & Malek, NeurIPS 2022; Howard et al., Annals of Statistics 2021, for confidence sequences).
"""

import math
from collections.abc import Callable, Sequence

from analysis.costs import CostEvidence
from analysis.formulas.odds import NOT_WORSE_PRIORS, NOT_WORSE_RATIOS, WORSE_PRIORS, WORSE_RATIOS, Cell, Mixture
from analysis.latency import LatencyEvidence
from analysis.latency_bins import STEP

Interval = tuple[float, float | None]
_WIDEST = math.log(1000.0)
_BISECTIONS = 24
_SLOWEST_BINS = 64


def ratio_interval(cells: Sequence[Cell], alpha: float) -> Interval:
    """Returns the interval of V2's hazard over V1's; 0 and None are no bound."""
    threshold = math.log(2 / alpha)

    def is_above(log_ratio: float) -> bool:
        ratio = math.exp(log_ratio)
        return Mixture(ratio, [ratio * one for one in WORSE_RATIOS], WORSE_PRIORS).log_e(cells) >= threshold

    def is_below(log_ratio: float) -> bool:
        ratio = math.exp(log_ratio)
        return Mixture(ratio, [ratio * one for one in NOT_WORSE_RATIOS], NOT_WORSE_PRIORS).log_e(cells) >= threshold

    low = math.exp(_last_true(is_above, -_WIDEST, _WIDEST)) if is_above(-_WIDEST) else 0.0
    high = math.exp(-_last_true(lambda negative: is_below(-negative), -_WIDEST, _WIDEST)) if is_below(_WIDEST) else None
    return low, high


def latency_interval(evidence: LatencyEvidence, alpha: float, m0: float) -> Interval:
    """Returns the interval of V2's times over V1's, in steps of 5.7 %, rounded outwards."""
    threshold = math.log(2 / alpha)

    def is_slower(bins: float) -> bool:
        return evidence.log_e_slower_than(round(bins)) >= threshold

    def is_faster(bins: float) -> bool:
        return evidence.log_e_slower_than(round(bins), faster=True) >= threshold

    low = high = None
    if is_slower(-_SLOWEST_BINS):
        low = _last_true(is_slower, -_SLOWEST_BINS, _SLOWEST_BINS, 7)
    if is_faster(_SLOWEST_BINS):
        high = -_last_true(lambda negative: is_faster(-negative), -_SLOWEST_BINS, _SLOWEST_BINS, 7)
    return (
        0.0 if low is None else m0 * math.exp(math.floor(low) * STEP),
        None if high is None else m0 * math.exp(math.ceil(high) * STEP),
    )


def cost_interval(evidence: CostEvidence, alpha: float) -> Interval:
    """Returns the interval of V2's mean cost over V1's."""
    threshold = math.log(2 / alpha)

    def is_dearer(log_ratio: float) -> bool:
        return evidence.log_e_dearer_than(math.exp(log_ratio)) >= threshold

    def is_cheaper(log_ratio: float) -> bool:
        return evidence.log_e_cheaper_than(math.exp(log_ratio)) >= threshold

    low = high = None
    if is_dearer(-_WIDEST):
        low = math.exp(_last_true(is_dearer, -_WIDEST, _WIDEST, 14))
    if is_cheaper(_WIDEST):
        high = math.exp(-_last_true(lambda negative: is_cheaper(-negative), -_WIDEST, _WIDEST, 14))
    return (0.0 if low is None else low), high


def _last_true(holds: Callable[[float], bool], low: float, high: float, bisections: int = _BISECTIONS) -> float:
    """The greatest value for which `holds`, which is true at `low` and turns false once."""
    for _ in range(bisections):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
