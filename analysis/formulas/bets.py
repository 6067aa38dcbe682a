"""Bets on the mean of bounded values: evidence, and always-valid intervals, for averages.

A gambler bets on each value before it is seen. Against "the mean is at least m" the factor of a value x is

    1 − λ·(x − m)        0 ≤ λ < 1/(largest − m)

It is never negative, and its mean, given the past, is at most 1 if the mean of x, given the past, is at least m. So the
product of factors is an e-process: by Ville's inequality the probability that it ever reaches 1/α is at most α, at any
number of looks and whatever the values' distribution is. The average over several fixed λ is an e-process too, and
needs no more than the counts of the values, so that evidence merges by addition.

Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", Journal of the Royal
Statistical Society B 86(1), 2024, sections 4 and 5 (a fixed grid of bets is their "grid Kelly"; the interval is every
mean that the bets do not reject).
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from analysis.formulas.odds import log_sum_exp

Cell = tuple[float, int]
"""A value and the number of times that it was seen."""

FRACTIONS: Final = (0.005, 0.015, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 0.95)
"""The bets, as fractions of the largest one at which no factor is negative."""
_LOG_PRIOR: Final = -math.log(len(FRACTIONS))
_BISECTIONS: Final = 20


def log_e_below(cells: Sequence[Cell], mean: float, largest: float) -> float:
    """Log e-value against "the mean is at least `mean`", for values that are at most `largest`."""
    span = largest - mean
    return -math.inf if span <= 0 else _log_e([(mean - value, count) for value, count in cells], span)


def log_e_above(cells: Sequence[Cell], mean: float, smallest: float) -> float:
    """Log e-value against "the mean is at most `mean`", for values that are at least `smallest`."""
    span = mean - smallest
    return -math.inf if span <= 0 else _log_e([(value - mean, count) for value, count in cells], span)


def mean_interval(cells: Sequence[Cell], smallest: float, largest: float, alpha: float) -> tuple[float, float]:
    """Returns the always-valid interval of the mean at 1 − `alpha`."""
    threshold = math.log(2 / alpha)
    low = _last_true(lambda mean: log_e_above(cells, mean, smallest) >= threshold, smallest, largest)
    high = -_last_true(lambda negative: log_e_below(cells, -negative, largest) >= threshold, -largest, -smallest)
    return low, high


def _log_e(gains: Sequence[Cell], span: float) -> float:
    """Log of the average over the bets; a gain is at least −`span`."""
    return log_sum_exp([_LOG_PRIOR + product for product in log_products(gains, span)])


def log_products(gains: Sequence[Cell], span: float) -> list[float]:
    """Log of the product of factors for each bet; a gain is at least −`span`."""
    return [sum([count * math.log1p(fraction / span * gain) for gain, count in gains]) for fraction in FRACTIONS]


def _last_true(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The greatest value for which `holds`, which turns false once; `low` if it never holds."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
