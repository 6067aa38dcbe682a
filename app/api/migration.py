"""`/migration`: the phase of the migration, its checklist with the evidence, and the command that comes next."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
from pydantic import Field, field_validator

from app.access.auth import Admin, Observer, Operator
from app.api.analysis import TallyView
from app.api.base import In, Out, Router, Text
from app.openapi.document import raises
from app.positions.identity import identity_of_pools
from app.problems import Problem
from app.replicas.told import EXAMPLES, MIGRATION, SHADOW, MigrationTold
from app.replicas.views import summed
from app.services import Running, Services
from routing.migration.checklist import DOCUMENTATION, NAMES, Item, ItemState, Validation, checklist
from routing.migration.pause import Pause, pause_of
from routing.migration.phases import QUIET_DAYS, Facts, Phase, position
from routing.migration.usage import DayOfUse, service_times
from routing.rollout.coverage import MIN_CALLS, Coverage
from routing.rollout.v2_watch import NO_CALLS, RECENT_S, FaultRate
from routing.telemetry.recorder import DURATION_BOUNDS
from routing.versions import Reason, Version

MAX_REPORT_BYTES = 512 * 1024
"""The largest report of a validation that is kept, in bytes of JSON."""

MAX_SHORT = 100
"""Programs with too few runs on V2 that are listed."""

router = Router(prefix="/migration", tags=["migration"])


class ItemView(Out):
    """An item of the checklist."""

    item: str
    state: ItemState
    evidence: str
    how: str = Field(description="The command that gets it met; empty if nothing is to be done")


class ValidationView(Out):
    """The newest validation."""

    at: datetime
    by: str
    is_current: bool = Field(description="The pools that were validated are those that run now")


class UseView(Out):
    """The calls of one version for one reason on one day."""

    day: str
    pool_version: Version
    reason: Reason
    calls: int
    peak_per_minute: int = Field(description="The most calls that one replica has decided in a minute")


class ServiceTimesView(Out):
    """The durations of one version's organic calls in the last days, on all replicas."""

    pool_version: Version
    calls: int = Field(description="Organic calls that have been answered")
    mean_s: float = Field(description="The mean time in the pool, without the wait for a worker")
    variation: float = Field(description="The squared coefficient of variation, by the histogram's buckets")
    p99_s: float = Field(description="The upper bound of the bucket that has the 99th percentile")
    longest_s: float = Field(description="The upper bound of the bucket that has the longest call")
    mean_wait_s: float = Field(description="The mean wait for a worker")


class PauseView(Out):
    """The guardrail that has paused the ramp."""

    guardrail: str
    evidence: str = Field(description="Figures with the e-value, and the program that they are mostly of")
    v1: TallyView
    v2: TallyView
    log_e: float
    threshold: float
    executions: list[str] = Field(description="Ids of executions that are part of the evidence")


class ProgramRunsView(Out):
    """A program and its runs on the V2 that is on trial."""

    program_id: str
    calls: int = Field(description="Organic calls")
    copies: int = Field(description="Shadow calls that have been compared")


class CoverageView(Out):
    """The programs with traffic in the last 24 h, and those of them that V2 has run too rarely to be judged by."""

    programs: int = Field(description="All programs with traffic")
    min_calls: int = Field(description="Calls and copies that are enough for a program: the plan's, or 50")
    never_run: list[str] = Field(description="Ids of those that V2 has never run")
    copied: int = Field(description="Programs with so many copies alone")
    short: list[ProgramRunsView] = Field(description="Programs with too few, those with the fewest first; 100 at most")


class FaultRateView(Out):
    """V2's calls, and those of them that were faults."""

    calls: int
    faults: int


class V2FaultsView(Out):
    """V2's faults while it has all calls, and before."""

    now: FaultRateView = Field(description="On this machine, in the last seconds")
    seconds: float
    at_promotion: FaultRateView = Field(description="At the last step that the calls were compared at")


class MigrationView(Out):
    """The position of the migration."""

    missing_replicas: list[str] = Field(
        description="Replicas of this machine whose newest calls are missing here, with the reason"
    )

    phase: Phase
    next: str = Field(description="The one command that comes next; empty at the end")
    against: list[str] = Field(description="What speaks against the next phase")
    settings: list[str] = Field(description="The settings that end V1, once nothing needs it")
    pause: PauseView | None = Field(description="The evidence of the guardrail that has paused the ramp")
    v2_faults: V2FaultsView | None = Field(description="Null unless V2 has all calls")
    coverage: CoverageView = Field(description="The programs that V2 has run, of those with traffic")
    checklist: list[ItemView]
    canary_percent: float
    shadow_percent: float
    pools: str = Field(description="The identity of the pools that run; a validation belongs to one")
    validation: ValidationView | None
    v1_sunset: datetime | None = Field(description="The end of V1 that V1_SUNSET announces")
    usage: list[UseView] = Field(description="The calls of the last days")
    service_times: list[ServiceTimesView] = Field(description="Their durations by version, for the size of a pool")


class ItemBody(In):
    """The result of one check."""

    item: str = Field(max_length=64)
    state: Literal["met", "not_met", "unknown"]
    evidence: str = Field(max_length=4096)
    how: str = Field("", max_length=1024)


class ValidationBody(In):
    """The result of `poolshift migration validate`."""

    pools: str = Field(max_length=64, description="The identity of the pools that were validated")
    items: list[ItemBody] = Field(max_length=32)
    report: dict[str, Any] = Field(default_factory=dict, description="The figures behind the items")

    @field_validator("report")
    @classmethod
    def _can_be_kept(cls, report: dict[str, Any]) -> dict[str, Any]:
        msgspec.json.encode(report)  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
        return report


class TickBody(In):
    """A person's word for an item."""

    note: str | None = Field(None, max_length=1024)


class ReportView(Out):
    """A validation with its figures, and the one before it."""

    at: datetime
    by: str
    pools: str
    items: list[ItemView]
    report: dict[str, Any]
    before: "ReportView | None" = None


@router.get("", operation_id="show_migration", openapi_extra=raises("store_unavailable"))
async def show_migration(services: Running, _: Observer) -> MigrationView:
    """Tells the phase as the facts have it, the checklist, the objections to the next phase, and what comes next."""
    return await migration_view(services)


@router.get("/report", operation_id="show_validation", openapi_extra=raises("not_found", "store_unavailable"))
async def show_validation(services: Running, _: Observer) -> ReportView:
    """Shows the newest validation with its figures, and the one before it."""
    newest = await services.migration.store.latest()
    if newest is None:
        raise Problem("not_found", "no validation has run: poolshift migration validate")
    earlier = await services.migration.store.before(newest.key)
    return _report_view(newest, None if earlier is None else _report_view(earlier))


@router.post("/validations", status_code=201, operation_id="add_validation", openapi_extra=raises("store_unavailable"))
async def add_validation(body: ValidationBody, services: Running, admin: Admin) -> ReportView:
    """Keeps the result of a validation."""
    if len(msgspec.json.encode(body.report)) > MAX_REPORT_BYTES:
        raise Problem("payload_too_large", f"the report is over {MAX_REPORT_BYTES} bytes")
    if unknown := {one.item for one in body.items} - set(NAMES):
        raise Problem("invalid_request", f"body.items: {', '.join(sorted(unknown))} is not an item of the checklist")
    items = tuple(Item(one.item, ItemState(one.state), one.evidence, one.how) for one in body.items)
    stored = await services.migration.store.add(admin.name, body.pools, items, body.report)
    return _report_view(stored)


@router.put("/items/{item}", operation_id="tick_item", openapi_extra=raises("store_unavailable"))
async def tick_item(item: Text, services: Running, operator: Operator, body: TickBody | None = None) -> MigrationView:
    """Confirms an item that no check can tell: `documentation`, or one that the plan has under `manual`."""
    _refuse_unless_manual(item, services)
    await services.migration.store.tick(item, operator.name, None if body is None else body.note)
    return await migration_view(services)


@router.delete("/items/{item}", operation_id="untick_item", openapi_extra=raises("store_unavailable"))
async def untick_item(item: Text, services: Running, _: Operator) -> MigrationView:
    """Takes a confirmation back."""
    _refuse_unless_manual(item, services)
    await services.migration.store.untick(item)
    return await migration_view(services)


async def migration_view(services: Services) -> MigrationView:
    """Gathers the facts and tells the position. Raises StoreUnavailable."""
    answers = await services.machine.ask(MIGRATION, None)
    if not services.machine.is_alone:
        await services.shadow.exchange()  # the others have written theirs
    validation = await services.migration.store.latest()
    pools = await identity_of_pools(services)
    ticks = await services.migration.store.ticks()
    items = checklist(validation, pools, ticks, _manual_items(services))
    first_day = datetime.now(UTC) - timedelta(days=QUIET_DAYS)
    usage = await services.migration.usage.since(first_day.strftime("%Y-%m-%d"))
    times = service_times(await services.migration.usage.times_since(first_day.strftime("%Y-%m-%d")), DURATION_BOUNDS)
    is_validated = validation is not None and validation.pools == pools
    pause = pause_of(services.ramp.ramp, await _paused_executions(services))
    v2_programs = summed(one.v2_programs for one in answers.all)
    coverage = await services.ramp.coverage.look(v2_programs, max_age_s=0.0)
    facts = _facts(services, items, usage, answers.all, pause, coverage, is_validated=is_validated)
    found = position(facts)
    return MigrationView(
        missing_replicas=answers.missing_replicas,
        phase=found.phase,
        next=found.next,
        against=list(found.against),
        settings=list(found.settings),
        pause=None if pause is None else await _pause_view(services, pause),
        v2_faults=_v2_faults(services, answers.all) if found.phase in (Phase.FULL, Phase.DONE) else None,
        coverage=_coverage_view(services, coverage),
        checklist=[_item_view(one) for one in items],
        canary_percent=facts.percent,
        shadow_percent=facts.shadow_percent,
        pools=pools,
        validation=_validation_view(validation, pools),
        v1_sunset=None if services.migration.sunset is None else services.migration.sunset.at,
        usage=[
            UseView(
                day=one.day,
                pool_version=one.version,
                reason=one.reason,
                calls=one.calls,
                peak_per_minute=one.peak_per_minute,
            )
            for one in usage
        ],
        service_times=[
            ServiceTimesView(
                pool_version=one.version,
                calls=one.calls,
                mean_s=one.mean_s,
                variation=one.variation,
                p99_s=one.p99_s,
                longest_s=one.longest_s,
                mean_wait_s=one.mean_wait_s,
            )
            for one in times
        ],
    )


async def _paused_executions(services: Services) -> list[str]:
    """Ids of executions of this machine that speak against V2 by the guardrail that has paused the ramp."""
    guardrail = services.ramp.ramp.paused_by
    if guardrail is None:
        return []
    if guardrail == "shadow":
        by_replica = (await services.machine.ask(SHADOW, None)).all
        examples = [one for told in by_replica for kept in told.values() for one in kept]
        return [one.execution_id for one in examples if "v2" in one.odd.values()]
    judged = (await services.machine.ask(EXAMPLES, None)).all
    return [one.execution_id for told in judged for one in told.get(guardrail, ())]


async def _pause_view(services: Services, pause: Pause) -> PauseView:
    row = next(one for one in await services.evidence.rows() if one.name == pause.guardrail)
    return PauseView(
        guardrail=pause.guardrail,
        evidence=pause.evidence,
        v1=TallyView(calls=row.v1.calls, faults=row.v1.faults),
        v2=TallyView(calls=row.v2.calls, faults=row.v2.faults),
        log_e=row.log_e,
        threshold=row.threshold,
        executions=list(pause.executions),
    )


def _coverage_view(services: Services, coverage: Coverage) -> CoverageView:
    plan = services.ramp.ramp.plan
    min_calls = MIN_CALLS if plan is None or plan.coverage is None else plan.coverage.min_calls
    return CoverageView(
        programs=len(coverage.programs),
        min_calls=min_calls,
        never_run=coverage.never_run,
        copied=sum(one.copies >= min_calls for one in coverage.programs),
        short=[
            ProgramRunsView(program_id=one.program_id, calls=one.calls, copies=one.copies)
            for one in coverage.short_of(min_calls)[:MAX_SHORT]
        ],
    )


def _v2_faults(services: Services, replicas: Sequence[MigrationTold]) -> V2FaultsView:
    before = services.judge.v2_at_last_step()
    return V2FaultsView(
        now=_rate_view(sum((one.v2_recent for one in replicas), NO_CALLS)),
        seconds=RECENT_S,
        at_promotion=_rate_view(before),
    )


def _rate_view(rate: FaultRate) -> FaultRateView:
    return FaultRateView(calls=rate.calls, faults=rate.faults)


def _facts(
    services: Services,
    items: tuple[Item, ...],
    usage: Sequence[DayOfUse],
    replicas: Sequence[MigrationTold],
    pause: Pause | None,
    coverage: Coverage,
    *,
    is_validated: bool,
) -> Facts:
    has_v1 = Version.V1 in services.pools
    ramp = services.ramp.ramp
    step = ramp.current
    v1_calls = dict.fromkeys(Reason, 0)
    for day in usage:
        if day.version is Version.V1:
            v1_calls[day.reason] += day.calls
    return Facts(
        has_v1=has_v1,
        percent=services.percent_of(services.flag.current),
        shadow_percent=services.flag.current.shadow_basis_points / 100,
        compared=services.shadow.evidence.reports().compared,
        ramp=ramp.state,
        pause=pause,
        has_plan=ramp.plan is not None,
        waits_for_approval=bool(ramp.state.is_active and step is not None and step.approval and not ramp.is_approved),
        is_validated=is_validated,
        checklist=items,
        warning=ramp.warning,
        alarm=ramp.reason if ramp.is_alarmed else None,
        never_run=coverage.never_run_text(),
        v2_fault=next((one.v2_fault for one in replicas if one.v2_fault is not None), None),
        v1_calls=sum(v1_calls.values()),
        forced_v1_calls=v1_calls[Reason.FORCED],
        is_pinned_to_v1=services.pin is Version.V1,
        v1_sessions=sum(one.v1_sessions for one in replicas),
    )


def _manual_items(services: Services) -> tuple[str, ...]:
    plan = services.ramp.ramp.plan
    return () if plan is None else plan.manual


def _refuse_unless_manual(item: str, services: Services) -> None:
    allowed = (DOCUMENTATION, *_manual_items(services))
    if item not in allowed:
        raise Problem(
            "not_found", f"{item!r} is found by a check, and no person confirms it: {', '.join(allowed)} can be"
        )


def _validation_view(validation: Validation | None, pools: str) -> ValidationView | None:
    if validation is None:
        return None
    return ValidationView(at=validation.at, by=validation.by, is_current=validation.pools == pools)


def _report_view(validation: Validation, before: ReportView | None = None) -> ReportView:
    return ReportView(
        at=validation.at,
        by=validation.by,
        pools=validation.pools,
        items=[_item_view(one) for one in validation.items],
        report=dict(validation.report),
        before=before,
    )


def _item_view(item: Item) -> ItemView:
    return ItemView(item=item.item, state=item.state, evidence=item.evidence, how=item.how)
