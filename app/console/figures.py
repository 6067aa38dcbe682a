"""Figures over time for the charts: one tick a second while somebody looks, none twice."""

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from analysis.guardrails import GUARDRAIL_OF
from app.services import Services
from pools.protocol import PoolSnapshot
from routing.telemetry.recorder import DURATION_BOUNDS
from routing.versions import Version

KEPT_S: Final = 300
"""Seconds of ticks that the charts show."""
RECENT_S: Final = 60
"""Seconds that the table of both versions is about."""
_QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Tick:
    """Both versions' counts since the start, and their queues, at one moment."""

    at: int
    """Whole seconds since the epoch."""
    durations: Mapping[Version, Sequence[int]]
    """Calls by `DURATION_BOUNDS`."""
    faults: Mapping[tuple[Version, str], int]
    """By version and guardrail."""
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


def take_tick(services: Services, snapshots: Sequence[PoolSnapshot], at: float) -> Tick:
    """Reads the counters of this replica."""
    counts = services.failures.counts()
    faults: Counter[tuple[Version, str]] = Counter()
    for (code, version), count in counts.items():
        if code in GUARDRAIL_OF:
            faults[version, GUARDRAIL_OF[code]] += count
    queues = {snapshot.version: snapshot.queue_depth for snapshot in snapshots}
    return Tick(
        at=int(at),
        durations={version: services.recorder.latencies(version) for version in Version},
        faults=faults,
        queues={version: queues.get(version, 0) for version in Version},
    )


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


def _added(base: Tick | None, now: Tick, version: Version) -> list[int]:
    before = base.durations[version] if base is not None else [0] * len(now.durations[version])
    return [after - earlier for after, earlier in zip(now.durations[version], before, strict=True)]


def _faults_added(base: Tick | None, now: Tick, version: Version) -> Counter[str]:
    """One version's faults between two ticks, or since the start, by guardrail."""
    before: Mapping[tuple[Version, str], int] = {} if base is None else base.faults
    return Counter(
        {name: count - before.get((of, name), 0) for (of, name), count in now.faults.items() if of is version}
    )


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
