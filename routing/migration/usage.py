"""The calls of each version by day and by reason, added up in the store: who still needs V1, and the peak of a day."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from common.log_once import LogOnce
from common.shared_run import SharedRun
from routing.errors import StoreUnavailable
from routing.versions import Reason, Version

INTERVAL_S = 60.0
"""Seconds between two additions to the store: the unit of a peak."""

Decisions = Mapping[tuple[Version, Reason], int]
Durations = Mapping[Version, tuple[Sequence[int], float, float]]
"""By version: calls by bucket of duration, the sum of the durations, and that of the waits in them, in seconds."""


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """The calls of one version, for one reason, on one day (UTC)."""

    day: str
    version: Version
    reason: Reason
    calls: int
    peak_per_minute: int
    """The most calls that one replica has decided in a minute."""


@dataclass(frozen=True, slots=True)
class DayOfTimes:
    """The durations of one version's calls on one day (UTC), by the recorder's buckets, and the waits in them."""

    day: str
    version: Version
    counts: tuple[int, ...]
    seconds: float
    waited_s: float


class UsageStore(Protocol):
    """Keeps the calls by day. Every method raises StoreUnavailable if the store does not answer."""

    async def add(self, rows: Sequence[DayOfUse], times: Sequence[DayOfTimes]) -> None:
        """Adds calls and durations to those of the day, and raises the peak of the day; all of it or nothing."""

    async def times_since(self, day: str) -> Sequence[DayOfTimes]:
        """Reads the durations of the days from `day` on."""
        ...

    async def since(self, day: str) -> Sequence[DayOfUse]:
        """Reads the days from `day` on."""
        ...


class Usage:
    """Adds the decisions of this replica to the store, once a minute and at the end."""

    def __init__(
        self, decisions: Callable[[], Decisions], durations: Callable[[], Durations], store: UsageStore
    ) -> None:
        """Asks `decisions` and `durations` for all calls since the start of the service."""
        self._decisions = decisions
        self._durations = durations
        self._store = store
        self._add = SharedRun(self._add_now)
        self._added: dict[tuple[Version, Reason], int] = {}
        self._at_minute: dict[tuple[Version, Reason], int] = {}
        """The decisions before the minute that runs."""
        self._peaks: dict[tuple[Version, Reason], int] = {}
        """The decisions of the busiest minute that the store does not know yet."""
        self._timed: dict[Version, tuple[Sequence[int], float, float]] = {}
        self._log_once = LogOnce("calls by day cannot be added to the store")

    async def run(self) -> None:
        """Adds until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.end_minute()
            await self.flush()

    def end_minute(self) -> None:
        """Ends a minute, whose calls may be the peak, and begins the next."""
        now = dict(self._decisions())
        self._peaks = {key: self._peak(key, count) for key, count in now.items()}
        self._at_minute = now

    def _peak(self, key: tuple[Version, Reason], count: int) -> int:
        return max(self._peaks.get(key, 0), count - self._at_minute.get(key, 0))

    async def flush(self) -> None:
        """Adds the calls since the last time; calls that cannot be added now are added later."""
        try:
            await self._add()
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
        else:
            self._log_once.clear()

    async def _add_now(self) -> None:
        now, timed = dict(self._decisions()), dict(self._durations())
        grown = {key: count - self._added.get(key, 0) for key, count in now.items()}
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        rows = [DayOfUse(day, *key, calls, self._peak(key, now[key])) for key, calls in grown.items() if calls]
        times = [
            grown_times
            for version, one in timed.items()
            if (grown_times := _grown(day, version, self._timed.get(version), one)) is not None
        ]
        peaks = self._peaks
        if rows or times:
            await self._store.add(rows, times)
        self._added, self._timed = now, timed
        if self._peaks is peaks:  # else another minute has ended meanwhile
            self._peaks = {}

    async def since(self, day: str) -> Sequence[DayOfUse]:
        """Reads the days from `day` on, with what this replica has not added yet. Raises StoreUnavailable."""
        await self.flush()
        return await self._store.since(day)

    async def times_since(self, day: str) -> Sequence[DayOfTimes]:
        """Reads the durations of the days from `day` on, as of the last addition. Raises StoreUnavailable."""
        return await self._store.times_since(day)


def _grown(
    day: str,
    version: Version,
    before: tuple[Sequence[int], float, float] | None,
    now: tuple[Sequence[int], float, float],
) -> DayOfTimes | None:
    """Returns what came to the durations of a version; None if there was no call."""
    counts, seconds, waited_s = before or ([0] * len(now[0]), 0.0, 0.0)
    grown = tuple(later - earlier for later, earlier in zip(now[0], counts, strict=True))
    if not any(grown):
        return None
    return DayOfTimes(day, version, grown, now[1] - seconds, now[2] - waited_s)


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """The durations of a version's calls over some days."""

    version: Version
    calls: int
    mean_s: float
    """The time in the pool without the wait for a worker."""
    variation: float
    """The squared coefficient of variation of the durations, with each call in the middle of its bucket."""
    p99_s: float
    longest_s: float
    """The upper bound of the bucket of the longest call."""
    mean_wait_s: float


def service_times(days: Sequence[DayOfTimes], bounds: Sequence[float]) -> list[ServiceTimes]:
    """Adds up days by version; `bounds` are those of the buckets."""
    found = []
    for version in dict.fromkeys(one.version for one in days):
        mine = [one for one in days if one.version is version and len(one.counts) == len(bounds) + 1]
        counts = [sum(column) for column in zip(*(one.counts for one in mine), strict=True)]
        calls, waited_s = sum(counts), sum(one.waited_s for one in mine)
        if calls:
            seconds = max(0.0, sum(one.seconds for one in mine) - waited_s)
            spread = _spread(counts, bounds)
            found.append(ServiceTimes(version, calls, seconds / calls, *spread, waited_s / calls))
    return found


def _spread(counts: Sequence[int], bounds: Sequence[float]) -> tuple[float, float, float]:
    """The squared coefficient of variation, and the upper bounds of the 99th percentile and of the longest call."""
    total = sum(counts)
    lows, highs = (0.0, *bounds), (*bounds, bounds[-1])
    middles = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
    mean = sum(middle * count for middle, count in zip(middles, counts, strict=True)) / total
    square = sum(middle**2 * count for middle, count in zip(middles, counts, strict=True)) / total
    seen, p99_s = 0, highs[-1]
    for count, high in zip(counts, highs, strict=True):
        seen += count
        if seen >= 0.99 * total:
            p99_s = high
            break
    longest_s = max(high for count, high in zip(counts, highs, strict=True) if count)
    return max(0.0, square / mean**2 - 1), p99_s, longest_s
