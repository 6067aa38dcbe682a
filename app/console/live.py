"""Live pages: one sampler for the service, only while somebody looks, and one encoded frame for all who see the same.

A viewer has a place for the newest frame alone. One that reads slowly misses frames, and holds up nobody.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from analysis.verdict import Row
from app.api.failures import FailureCount, failure_counts
from app.api.ramp import StatusView, status_view
from app.api.rollout import RolloutView, rollout_view
from app.console.figures import Figures, Point, Series, Tick, take_tick
from app.replicas.machine import Answers, Told
from app.replicas.told import LIVE, LiveTold
from app.replicas.views import whole_failures, whole_pools
from app.services import Services
from common.background import Background
from pools.protocol import PoolSnapshot
from routing.rollout.plan import PlanStep
from routing.rollout.ramp import Ramp, first_share
from routing.versions import Version

INTERVAL_S: Final = 1.0
_AFTER_S: Final = 0.02
EVIDENCE_AGE_S: Final = 5.0
"""Intervals take some 100 ms of a thread; the sampler asks for new ones no more often than this."""
MAX_VIEWERS: Final = 64
"""Tabs that are live at once; further ones show what they had when they were loaded."""

_log = structlog.stdlib.get_logger("poolshift.console")


class TooManyViewers(Exception):
    """As many tabs are live as may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Everything that the live pages show, at one moment, from the memory of this machine's replicas alone."""

    at: datetime
    rollout: RolloutView
    status: StatusView
    rows: Sequence[Row]
    pools: Sequence[PoolSnapshot]
    figures: dict[Version, Figures]
    figures_s: int | None
    """The seconds that the figures are about; None is since the start."""
    points: Sequence[Point]
    failures: Sequence[FailureCount]
    failing_since: datetime
    missing: Sequence[str]
    """The replicas of this machine that have not answered, with the reason."""
    staleness_s: float
    is_written: bool
    """False while a rollback is in force here that the database does not have yet."""
    has_v1: bool
    steps: Sequence[PlanStep]
    verbs: Sequence[tuple[str, str]]
    """The verbs that a person may use on the plan now, with their labels."""
    program_names: Mapping[str, str]
    """Ids of the programs in quarantine, by `quarantine_key`."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The answers of all replicas at one moment."""

    answers: Answers[LiveTold]
    rows: Sequence[Row]
    pools: Sequence[PoolSnapshot]
    tick: Tick
    at: float


@dataclass(frozen=True, slots=True)
class Audience:
    """Everybody who sees the same: a page, and the rights that decide what is on it."""

    page: str
    base: str
    """The path under which a proxy serves the application."""
    may_operate: bool
    is_admin: bool


Encode = Callable[[Audience, Sample], str]


class Viewer:
    """One tab that is live."""

    def __init__(self, audience: Audience) -> None:
        self.audience = audience
        self._frame: bytes | None = None
        self._is_over = False
        self._changed = asyncio.Event()

    def show(self, frame: bytes) -> None:
        """Takes a frame in place of one that has not been sent yet."""
        self._frame = frame
        self._changed.set()

    def end(self) -> None:
        """Ends the stream."""
        self._is_over = True
        self._changed.set()

    async def next(self) -> bytes | None:
        """Waits for the next frame; None is the end."""
        await self._changed.wait()
        self._changed.clear()
        frame, self._frame = self._frame, None
        return None if self._is_over else frame


class LiveHub:
    """Samples the service once a second while there are viewers, and hands each the frame of its audience."""

    def __init__(self, background: Background, staleness: Callable[[], float], encode: Encode) -> None:
        """Takes `staleness`, in seconds, of what this replica knows of the rollout, and what makes a region's HTML."""
        self._background = background
        self._staleness = staleness
        self._encode = encode
        self._series = Series()
        self._viewers: set[Viewer] = set()
        self._sampler: asyncio.Task[None] | None = None
        self._services: Services | None = None
        self._is_closed = False

    async def sample(self, services: Services, max_age_s: float = EVIDENCE_AGE_S) -> Sample:
        """Reads everything now; a database that is dead makes no difference."""
        seen = await self._look(services, max_age_s)
        return self._sample(services, seen)

    async def frames(self, audience: Audience, services: Services, is_in: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yields frames until the tab goes, the service stops, or `is_in` tells that the visitor is out.

        Raises:
            TooManyViewers: before the first frame.
        """
        if self._is_closed or len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewers
        viewer = Viewer(audience)
        self._join(viewer, services)
        try:
            yield _event("points", _encoded(self._series.points()))
            while is_in() and (frame := await viewer.next()) is not None:
                yield frame
        finally:
            self._leave(viewer)

    def close(self) -> None:
        """Ends all streams, so that open tabs do not hold up the shutdown; later ones are refused."""
        self._is_closed = True
        for viewer in self._viewers:
            viewer.end()

    def _join(self, viewer: Viewer, services: Services) -> None:
        self._services = services
        self._viewers.add(viewer)
        services.recorder.console_viewers(len(self._viewers))
        if self._sampler is None:
            self._sampler = self._background.run("console_sampler", self._run)

    def _leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        assert self._services is not None
        self._services.recorder.console_viewers(len(self._viewers))
        if not self._viewers and self._sampler is not None:
            self._sampler.cancel()
            self._sampler = None

    async def _run(self) -> None:
        assert self._services is not None
        while True:
            await self._show(self._services)
            await asyncio.sleep(to_next_beat(time.time()))

    async def _show(self, services: Services) -> None:
        seen = await self._look(services, EVIDENCE_AGE_S)
        point = self._series.add(seen.tick)
        sample = self._sample(services, seen)
        points = _event("points", _encoded([point])) if point is not None else b""
        frames: dict[Audience, bytes] = {}
        for viewer in tuple(self._viewers):
            audience = viewer.audience
            if audience not in frames:
                frames[audience] = points + _event(None, self._encode(audience, sample))
            viewer.show(frames[audience])

    async def _look(self, services: Services, max_age_s: float) -> _Seen:
        """Asks all replicas of the machine. Evidence is that of all replicas on each of them."""
        answers = await services.machine.ask(LIVE, None)
        rows = await services.evidence.rows(max_age_s=max_age_s)
        now = time.time()
        pools = whole_pools(answers.told)
        return _Seen(answers, rows, pools, take_tick(answers.told, pools, now), now)

    def _sample(self, services: Services, seen: _Seen) -> Sample:
        figures, seconds = self._series.recent(seen.tick)
        answers = seen.answers
        failures = whole_failures([one.failures for one in answers.all])
        statuses = Answers([Told(one.replica, one.answer.status) for one in answers.told], answers.missing)
        return Sample(
            at=datetime.fromtimestamp(seen.at, UTC),
            rollout=rollout_view(services.flag.current, services),
            status=status_view(services, statuses, seen.rows),
            rows=seen.rows,
            pools=seen.pools,
            figures=figures,
            figures_s=seconds,
            points=self._series.points(),
            failures=failure_counts(failures.counts),
            failing_since=datetime.fromtimestamp(failures.since, UTC),
            missing=answers.missing_replicas,
            staleness_s=self._staleness(),
            is_written=services.flag.is_written,
            has_v1=Version.V1 in services.pools,
            steps=() if services.ramp.ramp.plan is None else services.ramp.ramp.plan.steps,
            verbs=verbs_of(services.ramp.ramp, services.flag.current.canary_basis_points),
            program_names=services.programs.names({one.key for pool in seen.pools for one in pool.quarantined}),
        )


def to_next_beat(now: float) -> float:
    """Returns the seconds until shortly after the next whole second, so that each second has one point and one frame.

    On the second itself a timer may ring before it, and a second time right after it.
    """
    return INTERVAL_S - now % INTERVAL_S + _AFTER_S


def verbs_of(ramp: Ramp, share: int) -> tuple[tuple[str, str], ...]:
    """The moves of a plan that its state allows, with their labels; `share` is V2's, in hundredths of a percent."""
    if ramp.plan is None:
        return ()
    if not ramp.state.is_under_way:
        first = first_share(ramp)
        lowers = share > first
        return (("start_lower", f"Start, and lower V2 to {first / 100:g} %"),) if lowers else (("start", "Start"),)
    go_on = "pause" if ramp.state.is_active else "resume"
    waits_for_person = ramp.current is not None and ramp.current.approval and not ramp.is_approved
    verbs = (go_on, *(("approve",) if waits_for_person else ()), "promote", "abort")
    return tuple((verb, verb.capitalize()) for verb in verbs)


def _encoded(points: Sequence[Point]) -> str:
    return msgspec.json.encode([asdict(point) for point in points]).decode()


def _event(name: str | None, data: str) -> bytes:
    """Encodes a server-sent event."""
    head = f"event: {name}\n" if name is not None else ""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() if line)
    return f"{head}{lines}\n".encode()
