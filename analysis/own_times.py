"""Each program's own times at the intake: the ranks of calls among V1's, and the program's own p99.

A rank is that of a call among the program's past calls on V1, which are known before the call. So a call's version is a
coin of probability w whatever the rank, if V2 is as fast; and ranks of replicas can be added, whatever the times are.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from analysis.counters import Histogram
from analysis.latency_bins import BINS_OF_3, FINE_BINS

CUTS: Final[tuple[float, ...]] = (0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
"""Ranks begin at these shares of V1's calls."""
AT_P99: Final = len(CUTS) + 1
"""The rank of calls at V1's p99 and above."""
AT_3_P99: Final = AT_P99 + 1
"""The rank of calls that took three times that."""
WARM_UP: Final = 128
"""V1's calls of a program before it has ranks of its own; the ranks follow each doubling."""
_KEPT: Final = 64
"""Times of V1 that a call without a time of its own draws from."""


class OwnTimes:
    """A program's ranks, frozen from V1's calls so far."""

    __slots__ = ("_drawable", "_ranks", "_seen", "_until", "name", "p99")

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.p99 = -1
        """The first fine bin that counts as slow; negative until there are ranks."""
        self._ranks = b""
        self._drawable: list[int] = []
        self._seen = 0
        self._until = WARM_UP

    def is_due(self, fine: int) -> bool:
        """Takes note of a call of V1; tells if the ranks are to be frozen again."""
        if len(self._drawable) < _KEPT:
            self._drawable.append(fine)
        else:
            self._drawable[self._seen % _KEPT] = fine
        self._seen += 1
        return self._seen >= self._until

    def freeze(self, histograms: Iterable[Histogram]) -> None:
        """Takes the ranks from V1's calls in the histograms, if they are enough."""
        counts = [0] * FINE_BINS
        for histogram in histograms:
            for fine, pair in histogram.items():
                counts[fine] += pair[0]
        seen = sum(counts)
        self._seen = max(self._seen, seen)
        if seen < WARM_UP:
            self._until = self._seen + WARM_UP - seen
            return
        self._until = 2 * self._seen
        ranks = bytearray(FINE_BINS)
        below, self.p99 = 0, FINE_BINS
        for fine, count in enumerate(counts):
            if seen - below <= 0.01 * seen:
                self.p99 = min(self.p99, fine)
            ranks[fine] = bisect_right(CUTS, (below + count / 2) / seen)  # of the bin's middle: a bin may hold many
            below += count
        for fine in range(self.p99, FINE_BINS):
            ranks[fine] = AT_P99 if fine < self.p99 + BINS_OF_3 else AT_3_P99
        self._ranks = bytes(ranks)

    def rank(self, fine: int) -> int:
        """Returns the rank of a time, while `p99` is not negative."""
        return self._ranks[min(max(fine, 0), FINE_BINS - 1)]

    def drawn(self, number: int) -> int:
        """Returns one of V1's last times, by a random number; negative without any."""
        return self._drawable[number % len(self._drawable)] if self._drawable else -1
