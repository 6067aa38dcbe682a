"""The outcome of one check."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["met", "not_met", "unknown"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check's state with its evidence, the way to get it met, and the figures behind it."""

    item: str
    state: State
    evidence: str
    how: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean of some values, by Student's t; anything is possible with fewer than two."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = _T95.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a ratio that was measured several times: that of the logarithms' mean."""
    low, high = interval([math.log(ratio) for ratio in ratios])
    return math.exp(low) if low > -700 else 0.0, math.exp(high) if high < 700 else math.inf


def judged(low: float, high: float, *, at_least: float) -> State:
    """Tells if an interval lies above a bound, below it, or holds both answers."""
    if low >= at_least:
        return "met"
    return "not_met" if high < at_least else "unknown"


_T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
"""Quantiles 0.975 of Student's t by degrees of freedom (any table of it); 1.96 is the normal distribution's."""


def worst(states: Sequence[State]) -> State:
    """The state of an item that has several parts."""
    if "not_met" in states:
        return "not_met"
    return "unknown" if "unknown" in states else "met"
