"""Evidence that V2 is slower, or that it is not slower by a margin: the odds test with a ratio for each latency bin."""

import math
from collections.abc import Sequence

from analysis.counters import Counters, Histogram, SegmentKey
from analysis.formulas.odds import log_factors, log_sum_exp
from analysis.latency_bins import FASTER_PRIORS, FINE_BINS, PRIORS, Reference

WARM_UP = 128
"""Calls before there is a reference; they are no evidence."""
_LOG_PRIORS = tuple(math.log(prior) for prior in PRIORS)
_LOG_FASTER_PRIORS = tuple(math.log(prior) for prior in FASTER_PRIORS)

Table = list[tuple[list[float], list[float]]]
"""For each alternative, the logarithms of V1's and of V2's factors by coarse bin."""


def generation_of(observed: int) -> int:
    """Returns the generation of the reference after so many calls: 0 is the warm-up, then each is twice as long."""
    return (observed // WARM_UP).bit_length()


class References:
    """The reference of each generation: frozen from the two generations before it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._frozen: dict[int, Reference | None] = {}
        self._tables: dict[tuple[int, float, bool], Table] = {}

    def of(self, generation: int) -> Reference | None:
        """Returns a generation's reference; the warm-up has none."""
        if generation not in self._frozen:
            self._frozen[generation] = self._freeze(generation)
        return self._frozen[generation]

    def table(self, reference: Reference, generation: int, w: float, *, faster: bool = False) -> Table:
        """Returns the factors of a generation in a step."""
        key = (generation, w, faster)
        table = self._tables.get(key)
        if table is None:
            alternatives = reference.faster if faster else reference.worse
            factors = [[log_factors(w, ratio) for ratio in ratios] for ratios in alternatives]
            table = [([v1 for v1, _ in one], [v2 for _, v2 in one]) for one in factors]
            self._tables[key] = table
        return table

    def _freeze(self, generation: int) -> Reference | None:
        pooled = [0] * FINE_BINS
        for (_, _, earlier), histogram in self._counters.latency.items():
            if generation - 2 <= earlier < generation:
                for fine, (v1, v2) in histogram.items():
                    pooled[fine] += v1 + v2
        return Reference(pooled) if generation and sum(pooled) >= WARM_UP // 2 else None


class LatencyEvidence:
    """Log e-values of latency for each start copy. Segments that have not changed are not computed again."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.references = References(counters)
        self._segments: dict[SegmentKey, list[float]] = {}
        self.dirty: set[SegmentKey] = set(counters.latency)

    def log_e(self, copies: int) -> list[float]:
        """Returns the log e-value of "V2 is slower" for each start copy."""
        for key in self.dirty:
            self._segments[key] = self._segment(key)
        self.dirty.clear()
        return [self._mixed(copy) for copy in range(copies)]

    def log_e_not_slower(self, copy: int, margin_bins: int) -> float:
        """Returns the log e-value of "V2 is not slower by the margin", from the calls of the copy's own step on."""
        return _sum(self._not_slower(copy, margin_bins), _LOG_FASTER_PRIORS)

    def sums_not_slower(self, copy: int, margin_bins: int) -> list[float]:
        """Returns the same logarithm for each alternative alone, without its prior."""
        segments = self._not_slower(copy, margin_bins)
        return [sum(parts) for parts in zip(*segments, strict=True)] if segments else [0.0] * len(FASTER_PRIORS)

    def _not_slower(self, copy: int, margin_bins: int) -> list[list[float]]:
        return [
            self._segment(key, -margin_bins, faster=True) for key in self._counters.latency if key[0] <= copy <= key[1]
        ]

    def log_e_slower_than(self, margin_bins: int, *, faster: bool = False) -> float:
        """Returns the log e-value against "V2 is slower by at most the margin" (or at least), of all calls."""
        segments = [self._segment(key, -margin_bins, faster=faster) for key in self._counters.latency if key[0] == 0]
        return _sum(segments, _LOG_FASTER_PRIORS if faster else _LOG_PRIORS)

    def _mixed(self, copy: int) -> float:
        return _sum([one for key, one in self._segments.items() if key[0] <= copy <= key[1]], _LOG_PRIORS)

    def _segment(self, key: SegmentKey, shift: int = 0, *, faster: bool = False) -> list[float]:
        """Log e-value of one segment for each alternative: Σ_bin [n1·ln V1's factor + n2·ln V2's factor]."""
        _, step, generation = key
        reference = self.references.of(generation)
        if reference is None:
            return [0.0] * (len(FASTER_PRIORS) if faster else len(PRIORS))
        w = self._counters.steps[step][0]
        counts1, counts2 = _by_version(self._counters.latency[key])
        coarse1, coarse2 = reference.coarse_counts(counts1), reference.coarse_counts(counts2, shift)
        return [
            sum(map(float.__mul__, map(float, coarse1), v1)) + sum(map(float.__mul__, map(float, coarse2), v2))
            for v1, v2 in self.references.table(reference, generation, w, faster=faster)
        ]


def _by_version(histogram: Histogram) -> tuple[dict[int, int], dict[int, int]]:
    return (
        {fine: pair[0] for fine, pair in histogram.items() if pair[0]},
        {fine: pair[1] for fine, pair in histogram.items() if pair[1]},
    )


def _sum(segments: Sequence[Sequence[float]], log_priors: Sequence[float]) -> float:
    if not segments:
        return 0.0
    return log_sum_exp(
        [prior + sum(parts) for prior, parts in zip(log_priors, zip(*segments, strict=True), strict=True)]
    )
