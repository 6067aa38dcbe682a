"""The questions that the replicas of a machine ask each other, and what each tells of itself.

Only what a replica has in memory is asked for. All else is in the store, which the replicas share.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Final

import msgspec

from analysis.verdict import Say
from app.positions.reload import Reload
from app.replicas.exposition import exposition
from app.replicas.questions import Question
from app.services import Services
from pools.protocol import PoolSnapshot
from routing.errors import StoreUnavailable
from routing.rollout.outlook import outlook
from routing.rollout.ramp import Facts, Ramp, RampState, missing_for_next
from routing.rollout.ramp_store import ReplicaReport
from routing.rollout.v2_watch import FaultRate
from routing.shadow.examples import Example as ShadowExample
from routing.telemetry.failures import Failure
from routing.versions import Version

SHADOW_EXAMPLES: Final = 20
"""Examples of all programs together that one replica tells of."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's part of a view."""


# --- the pools


class PoolTold(Part, frozen=True, kw_only=True):
    """A pool, and its last reload since it started."""

    snapshot: PoolSnapshot
    last_reload: Reload | None


async def _pools(services: Services, _: None) -> dict[Version, PoolTold]:
    snapshots = await asyncio.gather(*(pool.snapshot() for pool in services.pools.values()))
    return {
        version: PoolTold(snapshot=snapshot, last_reload=services.reloader.last(version))
        for version, snapshot in zip(services.pools, snapshots, strict=True)
    }


# --- the failed calls


class FailuresAsked(Part, frozen=True, kw_only=True):
    """The failed calls that are asked for: of a code and a version, or of all."""

    code: str | None = None
    version: Version | None = None
    limit: int = 0


class FailuresTold(Part, frozen=True, kw_only=True):
    """The failed calls: how many of each code and version since when, and the newest that were asked for."""

    since: float
    counts: list[tuple[str, Version, int]]
    newest: list[Failure]


async def _failures(services: Services, asked: FailuresAsked) -> FailuresTold:
    return failures_told(services, asked)


def failures_told(services: Services, asked: FailuresAsked) -> FailuresTold:
    """Tells the failed calls of this replica."""
    failures = services.failures
    return FailuresTold(
        since=failures.since,
        counts=[(code, version, count) for (code, version), count in failures.counts().items()],
        newest=list(islice(failures.newest(asked.code, asked.version), asked.limit)) if asked.limit else [],
    )


# --- the ramp


class StatusTold(Part, frozen=True, kw_only=True):
    """The ramp as a replica sees it. The one that leads knows best what comes next."""

    report: ReplicaReport
    leads: bool
    verdict: Say
    guardrail: str | None
    next: str
    reason: str | None
    since: datetime


async def _status(services: Services, _: None) -> StatusTold:
    return status_told(services)


def status_told(services: Services) -> StatusTold:
    """Tells the ramp as this replica sees it."""
    controller, ramp = services.ramp, services.ramp.ramp
    verdict = controller.verdict()
    facts = controller.facts(verdict)
    return StatusTold(
        report=controller.evidence.report(),
        leads=controller.evidence.is_leader,
        verdict=verdict.action,
        guardrail=verdict.guardrail,
        next=outlook(ramp, facts, services.percent_of(services.flag.current)),
        reason=_reason(ramp, facts),
        since=controller.since,
    )


def _reason(ramp: Ramp, facts: Facts) -> str | None:
    """The reason for the state; for a ramp that waits, what it lacks at this moment."""
    if ramp.state is RampState.WAITING and ramp.current is not None:
        return missing_for_next(ramp, ramp.current, facts) or ramp.reason
    return ramp.reason


class JudgedExample(Part, frozen=True, kw_only=True):
    """An execution whose fault is part of the evidence against V2."""

    execution_id: str
    trace_id: str | None
    code: str
    detail: str


async def _examples(services: Services, _: None) -> dict[str, list[JudgedExample]]:
    return {
        guardrail: [
            JudgedExample(execution_id=one.execution_id, trace_id=one.trace_id, code=one.code, detail=one.detail)
            for one in reversed(kept)
        ]
        for guardrail, kept in services.judge.examples().items()
    }


# --- shadow calls, and the migration


async def _shadow(services: Services, program_id: str | None) -> dict[str, list[ShadowExample]]:
    """Has the store know the evidence of this replica, and tells the examples, which the store does not have."""
    await services.shadow.exchange()
    kept = services.shadow.evidence.examples()
    if program_id is not None:
        return {program_id: list(kept.get(program_id, ()))}
    gravest = sorted(
        ((one, example) for one, examples in kept.items() for example in examples), key=lambda one: -one[1].weight
    )
    found: dict[str, list[ShadowExample]] = {}
    for one, example in gravest[:SHADOW_EXAMPLES]:
        found.setdefault(one, []).append(example)
    return found


class MigrationTold(Part, frozen=True, kw_only=True):
    """The facts for the migration's phase that the store does not have."""

    v2_fault: str | None
    v1_sessions: int
    v2_recent: FaultRate
    v2_programs: dict[str, int]


async def _migration(services: Services, _: None) -> MigrationTold:
    await asyncio.gather(services.migration.usage.flush(), services.shadow.exchange())
    return MigrationTold(
        v2_fault=services.pools[Version.V2].fault,
        v2_recent=services.router.watch.recent(),
        v2_programs=services.router.watch.programs(),
        v1_sessions=services.sessions.active().get(Version.V1, 0) if Version.V1 in services.pools else 0,
    )


# --- the console


class LiveTold(Part, frozen=True, kw_only=True):
    """Everything that the console shows of a replica each second."""

    pools: list[PoolSnapshot]
    failures: FailuresTold
    durations: dict[Version, list[int]]
    status: StatusTold


async def _live(services: Services, _: None) -> LiveTold:
    snapshots = await asyncio.gather(*(pool.snapshot() for pool in services.pools.values()))
    return LiveTold(
        pools=snapshots,
        failures=failures_told(services, FailuresAsked()),
        durations={version: services.recorder.latencies(version) for version in Version},
        status=status_told(services),
    )


# --- what is to be stored


class Kept(StrEnum):
    """Kinds of counts that a replica stores some time after it has counted."""

    PROGRAMS = "programs"
    SESSIONS = "sessions"
    TRIAL = "trial"


async def _flush(services: Services, kept: Kept) -> None:
    flush: Mapping[Kept, Callable[[], Awaitable[None]]] = {
        Kept.PROGRAMS: services.programs.flush,
        Kept.SESSIONS: services.sessions.flush,
        Kept.TRIAL: services.rotation.flush,
    }
    with suppress(StoreUnavailable):  # who asks finds that by itself
        await flush[kept]()


POOLS: Final = Question("pools", _pools)
FAILURES: Final = Question("failures", _failures)
STATUS: Final = Question("status", _status)
EXAMPLES: Final = Question("examples", _examples)
SHADOW: Final = Question("shadow", _shadow)
MIGRATION: Final = Question("migration", _migration)
LIVE: Final = Question("live", _live)
METRICS: Final = Question("metrics", exposition)
FLUSH: Final = Question("flush", _flush)

LOOKS: Final[tuple[Question[Any, Any], ...]] = (
    POOLS,
    FAILURES,
    STATUS,
    EXAMPLES,
    SHADOW,
    MIGRATION,
    LIVE,
    METRICS,
    FLUSH,
)
"""The questions that change nothing."""
