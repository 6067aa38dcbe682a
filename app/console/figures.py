"""Figures over time for the charts: one tick a second while somebody looks, none twice."""

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from analysis.guardrails import GUARDRAIL_OF
from app.replicas.machine import Told
from app.replicas.told import LiveTold
from pools.protocol import PoolSnapshot
from routing.telemetry.recorder import DURATION_BOUNDS
from routing.versions import Version

KEPT_S: Final = 300
"""Seconds of ticks that the charts show."""
RECENT_S: Final = 60
"""Seconds that the table of both versions is about."""
_QUANTILES: Final = (0.5, 0.95, 0.99)


class Run(NamedTuple):
    """A replica, or the only process, from its start to its end."""

    replica: int | None
    since: float
    """The time of its start."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Both versions' counts since the start of a run."""

    durations: Mapping[Version, Sequence[int]]
    """Calls by `DURATION_BOUNDS`."""
    faults: Mapping[tuple[Version, str], int]
    """By version and guardrail."""


_NO_COUNTS: Final = Counts({version: [0] * (len(DURATION_BOUNDS) + 1) for version in Version}, {})


@dataclass(frozen=True, slots=True)
class Tick:
    """The counts of all replicas that have answered, and both versions' queues, at one moment."""

    at: int
    """Whole seconds since the epoch."""
    counts: Mapping[Run, Counts]
    queues: Mapping[Version, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """One version's figures over some seconds; None is unknown."""

    calls: int
    faults: int
    """Faults of the engine and of programs together, and all others that are judged."""
    engine_faults: int
    program_faults: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    queue: int


@dataclass(frozen=True, slots=True)
class Point:
    """One second of the charts, V1's and V2's value of each."""

    at: int
    calls: tuple[float, float]
    faults: tuple[float, float]
    p95_ms: tuple[float | None, float | None]
    queue: tuple[int, int]


class Series:
    """The last ticks. One whose second is there already is dropped, so that no chart has a second point for it."""

    def __init__(self) -> None:
        self._ticks: deque[Tick] = deque(maxlen=KEPT_S + 1)
        self._points: deque[Point] = deque(maxlen=KEPT_S)

    def add(self, tick: Tick) -> Point | None:
        """Adds a tick; returns its point, if there is a tick before it to compare with."""
        before = self._ticks[-1] if self._ticks else None
        if before is not None and tick.at <= before.at:
            return None
        self._ticks.append(tick)
        if before is None or tick.at - before.at > KEPT_S:
            return None
        point = _point(before, tick)
        self._points.append(point)
        return point

    def points(self) -> Sequence[Point]:
        """The points of the last `KEPT_S` seconds."""
        if not self._ticks:
            return ()
        return [point for point in self._points if point.at > self._ticks[-1].at - KEPT_S]

    def recent(self, now: Tick) -> tuple[dict[Version, Figures], int | None]:
        """Both versions' figures of the last `RECENT_S` seconds, and how many seconds that are.

        They are of the whole time since the start (None) if no tick is old enough to compare with.
        """
        base = next((tick for tick in self._ticks if now.at - RECENT_S <= tick.at <= now.at - 2), None)
        found = {version: figures_between(base, now, version) for version in Version}
        return found, None if base is None else now.at - base.at


def take_tick(told: Sequence[Told[LiveTold]], snapshots: Sequence[PoolSnapshot], at: float) -> Tick:
    """Makes a tick of what the replicas have told, and of their pools together."""
    queues = {snapshot.version: snapshot.queue_depth for snapshot in snapshots}
    return Tick(
        at=int(at),
        counts={Run(one.replica, one.answer.failures.since): _counts(one.answer) for one in told},
        queues={version: queues.get(version, 0) for version in Version},
    )


def _counts(live: LiveTold) -> Counts:
    faults: Counter[tuple[Version, str]] = Counter()
    for code, version, count in live.failures.counts:
        if code in GUARDRAIL_OF:
            faults[version, GUARDRAIL_OF[code]] += count
    return Counts(live.durations, faults)


def figures_between(base: Tick | None, now: Tick, version: Version) -> Figures:
    """One version's figures between two ticks, or since the start."""
    counts = _added(base, now, version)
    p50, p95, p99 = (quantile_ms(counts, q) for q in _QUANTILES)
    faults = _faults_added(base, now, version)
    return Figures(
        sum(counts), sum(faults.values()), faults["engine"], faults["program"], p50, p95, p99, now.queues[version]
    )


def quantile_ms(counts: Sequence[int], q: float) -> float | None:
    """A quantile in milliseconds, interpolated in its bucket as Prometheus does it; None without a call."""
    total = sum(counts)
    if not total:
        return None
    rank, below = q * total, 0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            low = DURATION_BOUNDS[index - 1] if index else 0.0
            high = DURATION_BOUNDS[index] if index < len(DURATION_BOUNDS) else low
            return 1000 * (low + (high - low) * (rank - below) / count)
        below += count
    return math.inf


def _before(base: Tick | None, run: Run, now: Counts) -> Counts:
    """The counts of a run at the earlier tick. One that was there and has not answered then has not counted since."""
    if base is None or run.since >= base.at:
        return _NO_COUNTS
    return base.counts.get(run, now)


def _added(base: Tick | None, now: Tick, version: Version) -> list[int]:
    added = list(_NO_COUNTS.durations[version])
    for run, counts in now.counts.items():
        before = _before(base, run, counts).durations[version]
        for index, (after, earlier) in enumerate(zip(counts.durations[version], before, strict=True)):
            added[index] += after - earlier
    return added


def _faults_added(base: Tick | None, now: Tick, version: Version) -> Counter[str]:
    """One version's faults between two ticks, or since the start, by guardrail."""
    added: Counter[str] = Counter()
    for run, counts in now.counts.items():
        before = _before(base, run, counts).faults
        for (of, name), count in counts.faults.items():
            if of is version:
                added[name] += count - before.get((of, name), 0)
    return added


def _point(before: Tick, now: Tick) -> Point:
    seconds = now.at - before.at
    v1, v2 = (_added(before, now, version) for version in Version)
    faults = [sum(_faults_added(before, now, version).values()) / seconds for version in Version]
    return Point(
        at=now.at,
        calls=(sum(v1) / seconds, sum(v2) / seconds),
        faults=(faults[0], faults[1]),
        p95_ms=(quantile_ms(v1, 0.95), quantile_ms(v2, 0.95)),
        queue=(now.queues[Version.V1], now.queues[Version.V2]),
    )
