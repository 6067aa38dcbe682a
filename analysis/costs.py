"""Evidence that V2's calls cost more than V1's: bets on the mean of a bounded cost.

A call's cost x is between 0 and 1: a share of a cap that is frozen from the pooled, version-blind past, as latency's
bins are. A call was assigned to V2 with probability w. For the ratio r of the versions' mean costs its gain is

    (x − r·c)/w on V2        −r·(x − c)/(1 − w) on V1

for any c that the past fixes; the past's mean has the least variance. The mean of the gain, given the past, is V2's
mean minus r times V1's, however both drift (Horvitz & Thompson, JASA 1952). So under "V2 costs at most r times as much"
the factor 1 + λ·gain has a mean of at most 1, for each λ at which it is never negative: the product is an e-process.

Only programs that have had a cost before count, with every call, also one that costs nothing: to leave out such calls
would leave out V2's more often than V1's if V2 fails ahead of its model. A key counts once, at its first such call. A
program counts no more once a call's cost is unknown, since its model has no price.

Sources: Waudby-Smith & Ramdas, JRSS B 86(1), 2024 (see `analysis.formulas.bets`); Waudby-Smith et al., "Anytime-valid
off-policy inference for contextual bandits", ACM/IMS Journal of Data Science 2024 (weighting by the probability of
assignment).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from analysis.counters import Counters, Histogram, SegmentKey
from analysis.formulas.bets import FRACTIONS, Cell, log_products
from analysis.formulas.odds import log_sum_exp

WARM_UP: Final = 64
"""Calls before there is a reference; they are no evidence."""
MAX_PROGRAMS: Final = 1024
"""Programs whose costs count, the first that have one."""
_STEP: Final = 0.05
_LEAST: Final = 1e-9
_BINS: Final = 700
"""Bins of 5 %, from a billionth of a unit of money to a million of them; bin 0 is no cost."""
_CAP: Final = 3.0
"""The cap, in the past's p99: dearer calls count as that."""
_LOG_PRIOR: Final = -math.log(len(FRACTIONS))


def bin_of_cost(cost: float) -> int:
    """Returns the fine bin of a cost."""
    return 0 if cost < _LEAST else min(1 + int(math.log(cost / _LEAST) / _STEP), _BINS)


def cost_of_bin(fine: int) -> float:
    """Returns the cost that stands for a bin."""
    return 0.0 if fine == 0 else _LEAST * math.exp((fine - 0.5) * _STEP)


def generation_of_costs(observed: int) -> int:
    """Returns the generation of the reference after so many calls: 0 is the warm-up, then each is twice as long."""
    return (observed // WARM_UP).bit_length()


@dataclass(frozen=True, slots=True)
class CostReference:
    """The cap, and the mean as a share of it, of a generation's past."""

    cap: float
    centre: float
    past: tuple[tuple[float, int], ...]
    """Shares of the cap, and how often each was seen."""

    def share(self, fine: int) -> float:
        """Returns a bin's cost as a share of the cap."""
        return min(cost_of_bin(fine) / self.cap, 1.0)

    def gains(self, w: float, ratio: float) -> tuple[float, float, float, float]:
        """The gain is `a·x − b` on V2 and `c − d·x` on V1: returns a, b, c and d."""
        return 1 / w, ratio * self.centre / w, ratio * self.centre / (1 - w), ratio / (1 - w)


class CostEvidence:
    """Log e-values of cost for each start copy. Segments that have not changed are not computed again."""

    def __init__(self, counters: Counters, margin: float) -> None:
        self._counters = counters
        self._margin = margin
        self._references: dict[int, CostReference | None] = {}
        self._segments: dict[SegmentKey, list[float]] = {}
        self.dirty: set[SegmentKey] = set(counters.costs)

    def log_e(self, copies: int) -> list[float]:
        """Returns the log e-value of "V2 costs more than the margin allows" for each start copy."""
        for key in self.dirty:
            self._segments[key] = self._segment(key, self._margin)
        self.dirty.clear()
        return [
            _mixed(one for key, one in self._segments.items() if key[0] <= copy <= key[1]) for copy in range(copies)
        ]

    def log_e_dearer_than(self, ratio: float) -> float:
        """Returns the log e-value against "V2 costs at most `ratio` times as much", of all calls."""
        return _mixed(self._segment(key, ratio) for key in self._counters.costs if key[0] == 0)

    def log_e_cheaper_than(self, ratio: float) -> float:
        """Returns the log e-value against "V2 costs at least `ratio` times as much", of all calls."""
        return _mixed(self._segment(key, ratio, is_cheaper=True) for key in self._counters.costs if key[0] == 0)

    def information(self, w: float, ratio: float, generation: int) -> float:
        """Returns the mean logarithm of a call's factor, if V2 costs `ratio` times as much as the past did."""
        reference = self.of(generation)
        if reference is None:
            return 0.0
        a, b, c, d = reference.gains(w, 1.0)
        total = sum([count for _, count in reference.past])
        span = max(b, d - c)
        return max(
            sum(
                [
                    (1 - w) * count / total * math.log1p(fraction / span * (c - d * share))
                    + w * count / total * math.log1p(fraction / span * (a * min(ratio * share, 1.0) - b))
                    for share, count in reference.past
                ]
            )
            for fraction in FRACTIONS
        )

    def of(self, generation: int) -> CostReference | None:
        """Returns a generation's reference; the warm-up has none."""
        if generation not in self._references:
            self._references[generation] = self._freeze(generation)
        return self._references[generation]

    def _segment(self, key: SegmentKey, ratio: float, *, is_cheaper: bool = False) -> list[float]:
        """Log e-value of one segment for each bet."""
        _, step, generation = key
        reference = self.of(generation)
        if reference is None:
            return [0.0] * len(FRACTIONS)
        a, b, c, d = reference.gains(self._counters.steps[step][0], ratio)
        sign = -1.0 if is_cheaper else 1.0
        gains: list[Cell] = []
        for fine, (v1, v2) in self._counters.costs[key].items():
            share = reference.share(fine)
            gains += [(sign * (c - d * share), v1), (sign * (a * share - b), v2)]
        # A gain is least if a call costs nothing or the cap.
        span = max(a - b, c) if is_cheaper else max(b, d - c)
        return log_products(gains, span)

    def _freeze(self, generation: int) -> CostReference | None:
        pooled: Histogram = {}
        for (_, _, earlier), histogram in self._counters.costs.items():
            if generation - 2 <= earlier < generation:
                for fine, (v1, v2) in histogram.items():
                    pooled.setdefault(fine, [0])[0] += v1 + v2
        total = sum([one[0] for one in pooled.values()])
        if not generation or total < WARM_UP // 2 or not any(pooled):
            return None
        cap = _CAP * cost_of_bin(_quantile(pooled, 0.99 * total))
        past = tuple((min(cost_of_bin(fine) / cap, 1.0), one[0]) for fine, one in sorted(pooled.items()))
        return CostReference(cap, sum([share * count for share, count in past]) / total, past)


def _quantile(pooled: Histogram, rank: float) -> int:
    """The bin of the call at `rank`; at least the cheapest that costs anything."""
    seen = 0
    for fine in sorted(pooled):
        seen += pooled[fine][0]
        if seen >= rank and fine:
            return fine
    return max(pooled)


def _mixed(segments: Iterable[list[float]]) -> float:
    """Log of the average over the bets of the product over segments."""
    found = list(segments)
    return log_sum_exp([_LOG_PRIOR + sum(parts) for parts in zip(*found, strict=True)]) if found else 0.0
