"""Latency bins, and the frozen reference that turns a bin into evidence.

Fine bins are fixed for everyone, a quarter of 25 % wide, so that histograms of replicas can be added. The reference
groups them into coarse bins at quantiles of the pooled, version-blind past, and has a weight ρ for each coarse bin and
alternative. Weights that increase with the bin make the odds test of `analysis.formulas.odds`, with ρ as the ratio, a
test of "V2 is stochastically no slower": if V2 is as fast, a call's version is a coin of probability w whatever its
latency.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

FINE_BINS: Final = 384
STEP: Final = math.log(1.25) / 4
SHORTEST_MS: Final = 0.01
LOG_SHORTEST: Final = math.log(SHORTEST_MS)
BINS_OF_3: Final = round(math.log(3) / STEP)

_QUANTILES = (*(i / 20 for i in range(1, 20)), 0.97, 0.98, 0.99, 0.995, 0.999)
SHIFTS = (2, 3, 4, 6, 8, 12, 18, 29)
"""Alternatives: V2 is slower by so many fine bins, × 1.12 to × 5."""
SHIFT_PRIORS = (0.08, 0.10, 0.14, 0.12, 0.12, 0.12, 0.07, 0.05)
TAILS = ((0.90, 2.0), (0.95, 3.0), (0.98, 3.0), (0.98, 8.0))
"""Alternatives: V2 has so many times as many calls above a quantile."""
TAIL_PRIORS = (0.05, 0.05, 0.05, 0.05)
PRIORS = (*SHIFT_PRIORS, *TAIL_PRIORS)
FASTER_SHIFTS = (-3, -4, -6, -9)
"""Alternatives for non-inferiority, after V2's times are divided by the margin: V2 takes 0.93, 1, 1.12 … of it."""
FASTER_PRIORS = (0.3, 0.4, 0.2, 0.1)


def fine_bin(ms: float) -> int:
    """Returns the fine bin of a latency."""
    if ms <= SHORTEST_MS:
        return 0
    return min(int((math.log(ms) - LOG_SHORTEST) / STEP) + 1, FINE_BINS - 1)


def bins_of_ratio(ratio: float) -> int:
    """Returns a ratio of latencies in fine bins."""
    return round(math.log(ratio) / STEP)


class Reference:
    """Coarse bins and weights, frozen from the pooled counts of an earlier time."""

    __slots__ = ("coarse", "faster", "masses", "p99", "worse")

    def __init__(self, pooled: Sequence[int]) -> None:
        seen = sum(pooled)
        above = list(accumulate(reversed(pooled)))[::-1]  # calls in this fine bin or a higher one
        self.p99 = next((fine for fine in range(FINE_BINS) if above[fine] <= 0.01 * seen), FINE_BINS)
        """The first fine bin that counts as slow."""
        smooth = _smoothed(pooled)
        self.coarse = _coarse(smooth)
        self.masses = self._mass(smooth, 0)
        floor = 0.5 / seen
        shifted = [_ratios(self._mass(smooth, shift), self.masses, floor) for shift in SHIFTS]
        self.worse = [_increasing(ratios) for ratios in [*shifted, *(self._tail(*tail) for tail in TAILS)]]
        self.faster = [
            _increasing(_ratios(self._mass(smooth, shift), self.masses, floor)[::-1])[::-1] for shift in FASTER_SHIFTS
        ]

    def coarse_counts(self, fine_counts: dict[int, int], shift: int = 0) -> list[int]:
        """Groups a histogram, whose calls are first made slower by `shift` fine bins."""
        counts = [0] * len(self.masses)
        for fine, count in fine_counts.items():
            counts[self.coarse[min(max(fine + shift, 0), FINE_BINS - 1)]] += count
        return counts

    def _mass(self, smooth: Sequence[float], shift: int) -> list[float]:
        masses = [0.0] * (self.coarse[-1] + 1)
        for fine, mass in enumerate(smooth):
            masses[self.coarse[min(max(fine + shift, 0), FINE_BINS - 1)]] += mass
        return masses

    def _tail(self, quantile: float, factor: float) -> list[float]:
        """Weights of a V2 with `factor` times as many calls above `quantile`."""
        below = list(accumulate(self.masses, initial=0.0))[:-1]
        is_tail = [start >= quantile - 1e-9 for start in below]
        tail = sum(mass for mass, slow in zip(self.masses, is_tail, strict=True) if slow)
        rest = (1 - min(factor * tail, 0.95)) / max(1 - tail, 1e-9)
        return [factor if slow else min(rest, 1.0) for slow in is_tail]


def _smoothed(pooled: Sequence[int]) -> list[float]:
    """The distribution by kernel smoothing, with Silverman's bandwidth: few calls make a rough histogram."""
    seen = sum(pooled)
    mean = sum(fine * count for fine, count in enumerate(pooled)) / seen
    deviation = math.sqrt(sum(count * (fine - mean) ** 2 for fine, count in enumerate(pooled)) / seen)
    deviation = min(deviation, (_quantile(pooled, 0.75) - _quantile(pooled, 0.25)) / 1.34)
    bandwidth = 0.9 * deviation * seen**-0.2
    reach = int(3 * bandwidth)
    kernel = [math.exp(-0.5 * (i / bandwidth) ** 2) if bandwidth else 1.0 for i in range(-reach, reach + 1)]
    scale = seen * math.fsum(kernel)
    smooth = [0.0] * FINE_BINS
    for fine, count in enumerate(pooled):
        if count:
            for offset, weight in enumerate(kernel, fine - reach):
                smooth[min(max(offset, 0), FINE_BINS - 1)] += count * weight / scale
    return smooth


def _quantile(pooled: Sequence[int], quantile: float) -> int:
    wanted = quantile * sum(pooled)
    return next(fine for fine, below in enumerate(accumulate(pooled)) if below >= wanted)


def _coarse(smooth: Sequence[float]) -> list[int]:
    """Maps each fine bin to a coarse one; a coarse bin ends once the next quantile is below it."""
    coarse: list[int] = []
    current, passed = 0, 0
    for below in accumulate(smooth):
        coarse.append(current)
        reached = sum(1 for quantile in _QUANTILES if below >= quantile - 1e-12)
        if reached > passed:
            current, passed = current + 1, reached
    return coarse


def _ratios(shifted: Sequence[float], masses: Sequence[float], floor: float) -> list[float]:
    return [(one + floor) / (other + floor) for one, other in zip(shifted, masses, strict=True)]


def _increasing(ratios: Sequence[float]) -> list[float]:
    return list(accumulate(ratios, max))
