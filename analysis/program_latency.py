"""Evidence by program that V2 is slower, or that it is not slower by a margin: the odds test on ranks.

A rank's ratio ρ is that of the two versions' chances to have it, if V2's calls are those of V1 moved by δ standard
deviations of a normal distribution (Lehmann, "The Power of Rank Tests", Annals of Mathematical Statistics 1953). The
guarantee is that of `analysis.latency_bins`: it needs no normal distribution, but only that ρ increases with the rank.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Final

from analysis.counters import Counters, Histogram
from analysis.formulas.odds import log_factors, log_sum_exp
from analysis.own_times import AT_3_P99, CUTS

SHIFTED: Final = 16
"""Added to the rank that a call of V2 has after its time is divided by the margin of a promotion."""
SLOWER: Final = (0.15, 0.3, 0.6, 1.2, 2.4)
"""Alternatives: V2's calls are slower by so many standard deviations."""
SLOWER_PRIORS: Final = (0.15, 0.2, 0.25, 0.2, 0.2)
FASTER: Final = (-0.2, -0.4, -0.8, -1.6)
"""Alternatives for non-inferiority, after V2's times are divided by the margin."""
FASTER_PRIORS: Final = (0.25, 0.25, 0.25, 0.25)
FLOOR: Final = 0.01
"""V2's p99 has tripled if this share of its calls, or more, takes three times V1's p99."""

Table = tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
"""For each alternative, the logarithms of V1's and of V2's factors by rank."""


def chance_ratios(delta: float) -> tuple[float, ...]:
    """Returns ρ for each rank: the ratio of V2's chance of the rank to V1's."""
    normal = NormalDist()
    edges = [-math.inf, *(normal.inv_cdf(cut) for cut in (*CUTS, 0.99)), math.inf]
    below = [normal.cdf(edge) for edge in edges]
    moved = [normal.cdf(edge - delta) for edge in edges]
    ratios = [(moved[place + 1] - moved[place]) / (below[place + 1] - below[place]) for place in range(len(edges) - 1)]
    return (*ratios, ratios[-1])


@lru_cache(maxsize=1024)
def _table(w: float, *, faster: bool) -> Table:
    found = []
    for delta in FASTER if faster else SLOWER:
        factors = [log_factors(w, max(ratio, 1e-9)) for ratio in chance_ratios(delta)]
        found.append((tuple(v1 for v1, _ in factors), tuple(v2 for _, v2 in factors)))
    return tuple(found)


class ProgramLatency:
    """Log e-values by program for each start copy. Segments that have not changed are not computed again."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._segments: dict[str, dict[tuple[int, int], list[float]]] = {}
        self._log_e: dict[str, list[float]] = {}
        self.dirty: set[tuple[int, int, str]] = set(counters.ranks)

    @property
    def programs(self) -> list[str]:
        """The programs whose calls have ranks."""
        self._refresh()
        return list(self._segments)

    def log_e(self, copies: int) -> dict[str, list[float]]:
        """Returns each program's log e-value of "V2 is slower" for each start copy."""
        self._refresh()
        for program, segments in self._segments.items():
            if len(self._log_e.get(program, ())) != copies:
                self._log_e[program] = [
                    _mixed([one for (first, step), one in segments.items() if first <= copy <= step], SLOWER_PRIORS)
                    for copy in range(copies)
                ]
        return self._log_e

    def log_e_not_slower(self, program: str, copy: int) -> float:
        """Returns the log e-value of "V2 is not slower by the margin", from the calls of the copy's own step on."""
        return _mixed([self.sums_not_slower(program, copy)], FASTER_PRIORS)

    def sums_not_slower(self, program: str, copy: int) -> list[float]:
        """Returns the same logarithm for each alternative alone, without its prior."""
        found = [self._segment(histogram, step, faster=True) for step, histogram in self._of_copy(program, copy)]
        return [sum(parts) for parts in zip(*found, strict=True)] if found else [0.0] * len(FASTER)

    def ranks_of_v2(self, program: str, copy: int) -> tuple[int, int]:
        """Returns V2's calls from the copy's own step on, and those of them that took three times V1's p99."""
        calls = slow = 0
        for _, histogram in self._of_copy(program, copy):
            calls += sum([pair[1] for rank, pair in histogram.items() if rank < SHIFTED])
            slow += histogram[AT_3_P99][1] if AT_3_P99 in histogram else 0
        return calls, slow

    def _of_copy(self, program: str, copy: int) -> list[tuple[int, Histogram]]:
        """The steps and ranks of a program that a start copy counts."""
        self._refresh()
        return [
            (step, self._counters.ranks[first, step, program])
            for first, step in self._segments.get(program, ())
            if first <= copy <= step
        ]

    def _refresh(self) -> None:
        for key in self.dirty:
            first, step, program = key
            self._segments.setdefault(program, {})[first, step] = self._segment(self._counters.ranks[key], step)
            self._log_e.pop(program, None)
        self.dirty.clear()

    def _segment(self, histogram: Histogram, step: int, *, faster: bool = False) -> list[float]:
        """Log e-value of one segment for each alternative."""
        offset = SHIFTED if faster else 0
        v1 = [0] * (AT_3_P99 + 1)
        v2 = [0] * (AT_3_P99 + 1)
        for rank, pair in histogram.items():
            if rank < SHIFTED:
                v1[rank] += pair[0]
            if offset <= rank < offset + SHIFTED:
                v2[rank - offset] += pair[1]
        w = self._counters.steps[step][0]
        return [
            sum([n * log for n, log in zip(v1, log_v1, strict=True)])
            + sum([n * log for n, log in zip(v2, log_v2, strict=True)])
            for log_v1, log_v2 in _table(w, faster=faster)
        ]


def _mixed(segments: Sequence[Sequence[float]], priors: Iterable[float]) -> float:
    if not segments:
        return 0.0
    return log_sum_exp(
        [math.log(prior) + sum(parts) for prior, parts in zip(priors, zip(*segments, strict=True), strict=True)]
    )
