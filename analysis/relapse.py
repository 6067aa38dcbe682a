"""A change for the worse after the promotion: V2's faults against V2's own rate on the ramp's last step.

There is no V1 to compare with any more, so the null hypothesis is about V2 alone: given the past, each call fails with
at most the probability p. The factor of a call, for an alternative q > p, is q/p if it fails and (1 − q)/(1 − p) if it
does not; its mean under the null is at most 1. With L the product of the factors since the last look,

    M ← (M + 1)·L        from M = 0

adds up the e-processes that begin at each look. Under the null M minus the number of looks is a supermartingale. So
the mean number of looks until M reaches c is at least c, and the probability that it does within n looks is at most
n/c (the optional stopping theorem). Means of several such M, over alternatives and strata, have the same property.

p is what V2's last step shows: an upper bound of its rate at a small α (Hoeffding, "Probability Inequalities for Sums
of Bounded Random Variables", 1963, theorem 1), times a margin for what the day does. The strata are all calls, and each
program that the last step had.

Source: Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", The New
England Journal of Statistics in Data Science 2(2), 2023, sections 2 and 3 (the e-SR procedure and its average run
length).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from analysis.formulas.odds import log_sum_exp

MARGIN: Final = 1.5
"""The rate may grow by this factor above the bound of the last step's: traffic is another by day and by night."""
BASELINE_ALPHA: Final = 0.001
"""The probability that the bound of the last step is too low, for all strata together."""
RATIOS: Final = (1.5, 2.5, 5.0, 15.0, 50.0, 500.0)
_LARGEST: Final = 0.95
"""The largest rate of an alternative."""
POOLED_SHARE: Final = 0.5
"""Weight of the stratum of all calls; the programs share the rest."""
ALL: Final = ""
"""The stratum of all calls."""


class Seen(NamedTuple):
    """Calls, and those of them that were faults."""

    calls: int
    faults: int


@dataclass(frozen=True, slots=True)
class Relapse:
    """The evidence that V2 has become worse: `log_m` has reached `threshold`."""

    program: str
    """The program with most of the evidence; `ALL` if it is that of all calls."""
    log_m: float
    threshold: float


class RelapseDetector:
    """Adds up V2's calls since its promotion, look by look."""

    def __init__(self, baseline: Mapping[str, Seen], looks: float, alpha: float) -> None:
        """Takes V2's calls of the last step by program.

        The probability of a false alarm within `looks` looks is at most `alpha` and `BASELINE_ALPHA` together, and the
        mean number of looks between two is at least `looks / alpha`.
        """
        self.threshold: Final = math.log(looks / alpha)
        whole = Seen(sum(one.calls for one in baseline.values()), sum(one.faults for one in baseline.values()))
        shares = {name: (1 - POOLED_SHARE) / len(baseline) for name in baseline}
        strata = {ALL: (whole, POOLED_SHARE)} | {name: (one, shares[name]) for name, one in baseline.items()}
        self._strata = {name: _Stratum(seen, share) for name, (seen, share) in strata.items() if seen.calls}

    def look(self, since: Mapping[str, Seen]) -> Relapse | None:
        """Takes the calls since the last look, by program; returns the evidence once it is enough."""
        if not self._strata:
            return None
        whole = Seen(sum(one.calls for one in since.values()), sum(one.faults for one in since.values()))
        for name, stratum in self._strata.items():
            stratum.look(whole if name == ALL else since.get(name, Seen(0, 0)))
        log_m = log_sum_exp([one.log_m for one in self._strata.values()])
        if log_m < self.threshold:
            return None
        return Relapse(max(self._strata, key=lambda name: self._strata[name].log_m), log_m, self.threshold)


class _Stratum:
    """One stratum's sums, for each alternative."""

    def __init__(self, baseline: Seen, share: float) -> None:
        self._null = min(MARGIN * upper_bound(baseline, BASELINE_ALPHA * share), _LARGEST)
        self._rates = [rate for ratio in RATIOS if (rate := min(ratio * self._null, _LARGEST)) > self._null]
        self._logs = [-math.inf] * len(self._rates)
        self._log_share = math.log(share / len(RATIOS))

    @property
    def log_m(self) -> float:
        """Logarithm of the mean over the alternatives, with the stratum's weight."""
        return self._log_share + log_sum_exp(self._logs) if self._logs else -math.inf

    def look(self, seen: Seen) -> None:
        null = self._null
        for index, rate in enumerate(self._rates):
            factor = seen.faults * math.log(rate / null)
            factor += max(seen.calls - seen.faults, 0) * math.log((1 - rate) / (1 - null))
            self._logs[index] = log_sum_exp([self._logs[index], 0.0]) + factor


def upper_bound(seen: Seen, alpha: float) -> float:
    """Upper bound of a rate at the level 1 − α: the largest whose divergence from the seen one is ln(1/α) over n."""
    if not seen.calls:
        return 1.0
    share, limit = min(seen.faults / seen.calls, 1.0), -math.log(alpha) / seen.calls
    low, high = share, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(share, middle) < limit else (low, middle)
    return high


def _divergence(share: float, rate: float) -> float:
    """The Kullback–Leibler divergence of two coins."""
    if rate >= 1:
        return math.inf if share < 1 else 0.0
    heads = share * math.log(share / rate) if share else 0.0
    return heads + ((1 - share) * math.log((1 - share) / (1 - rate)) if share < 1 else 0.0)
