"""`/rollout/plan`, `/rollout/start` and the like, `/rollout/status`: a ramp that goes on by itself."""

import time
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import Request
from pydantic import Field

from analysis.verdict import Outstanding, Row, Say
from app.access.auth import Operator, Reader
from app.api.base import In, Out, Router
from app.api.preconditions import IfMatch, expected_revision
from app.api.rollout import require_v1, shadow_percent_of
from app.openapi.document import raises
from app.problems import Problem
from app.replicas.machine import Answers
from app.replicas.told import STATUS, StatusTold
from app.replicas.views import leading, whole_reports
from app.services import Running, Services
from common.threads import in_check_thread
from routing.errors import StaleRevision
from routing.rollout.plan import MAX_STEPS, Plan, parse_plan
from routing.rollout.ramp import NEEDS_EVIDENCE, Ramp, RampState
from routing.rollout.ramp_store import ReplicaReport
from routing.rollout.reasons import outstanding_text
from routing.versions import Version
from store.health import StoreFailure

EVIDENCE_AGE_S = 2.0
"""Seconds that the evidence in a status may be old: it takes a thread some 100 ms."""

router = Router(prefix="/rollout", tags=["rollout"])


_PLAN_SCHEMA = {"schema": {"$ref": "#/components/schemas/PlanBody"}}
_PLAN_BODY = {"requestBody": {"required": True, "content": {"application/json": _PLAN_SCHEMA}}}
"""The body is read by the same code as ROLLOUT_PLAN_FILE, so that both give the same errors."""


def plan_schemas() -> dict[str, Any]:
    """Returns the schemas of a plan as it is sent, in which members with a default may be left out."""
    schema = Plan.model_json_schema(ref_template="#/components/schemas/{model}Body")
    parts = {**schema.pop("$defs"), "Plan": schema}
    return {f"{name}Body": {**part, "title": f"{name}Body"} for name, part in parts.items()}


class ReasonBody(In):
    """A reason, for the history."""

    reason: str | None = Field(None, max_length=1024)


class StartBody(ReasonBody):
    """A start, and the word for one that takes a part of V2's share away."""

    lower: bool = Field(False, description="Begin although V2 gets more than the plan's first step gives it")


class ApprovalBody(ReasonBody):
    """An approval of the step that the person has looked at."""

    step: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="From 1; refused with 409 if the ramp is at another step. null: any step"
    )


class SplitView(Out):
    """The split asked for, and the one seen in organic calls since it came into force."""

    asked_percent: float
    seen_percent: float | None = Field(description="Null before the first call")
    v1: int
    v2: int


class ReplicaView(Out):
    """One replica of the service."""

    id: str
    replica: int | None = Field(description="Its number among those of the machine that answers; null elsewhere")
    seen_at: datetime
    is_silent: bool
    rollout_revision: int = Field(description="The revision in force there")
    split: SplitView


class OutstandingView(Out):
    """A guardrail that the promotion waits for."""

    guardrail: str
    calls: int | None = Field(
        description="Organic calls until its evidence is likely, if V2 is as good as V1; null if not to be foreseen"
    )
    seconds: float | None = Field(description="The same at the present rate of calls")


class StatusView(Out):
    """The ramp: what it does, what comes next, and what the evidence says."""

    state: RampState
    step: int = Field(description="From 1; 0 before the first")
    steps: int
    canary_percent: float
    shadow_percent: float = Field(description="The share of V1's calls that also run on V2, for comparison")
    next: str
    verdict: Say
    guardrail: str | None = Field(description="The guardrail behind a verdict of pause or rollback")
    since: datetime
    reason: str | None
    warning: str | None = Field(description="`Advanced without evidence`, if that is how V2 was promoted")
    promotion: list[OutstandingView] = Field(
        description="What the promotion waits for, on all replicas' calls; empty unless the ramp is at its last step"
    )
    by: str
    pin: Version | None = Field(description="What POOL_VERSION pins all calls to, so that no ramp moves anything")
    in_force: bool = Field(description="Every replica says that the newest revision is in force there")
    silent: list[str] = Field(description="Replicas that have said nothing for some seconds")
    split: SplitView
    replicas: list[ReplicaView]
    database: str | None = Field(
        description="The failure of this replica's last write to the database, and since when; null while it can write"
    )
    missing_replicas: list[str] = Field(
        description="Replicas of this machine that do not answer now, with the reason, such as `1: silent`"
    )


@router.get("/plan", openapi_extra=raises("not_found"))
async def show_plan(services: Running, _: Reader) -> Plan:
    """The plan that is under way, or that the next start carries out."""
    plan = services.ramp.ramp.plan
    if plan is None:
        raise Problem("not_found", "there is no plan: PUT /rollout/plan, or ROLLOUT_PLAN_FILE")
    return plan


@router.put("/plan", openapi_extra={**_PLAN_BODY, **raises("invalid_plan", "plan_conflict", "store_unavailable")})
async def set_plan(request: Request, services: Running, operator: Operator) -> Plan:
    """Sets the plan that the next start carries out, as JSON or YAML; not while one is under way."""
    content = await request.body()
    plan = await in_check_thread(lambda: parse_plan(content))
    await services.ramp.set_plan(plan, operator.name)
    return plan


@router.delete("/plan", status_code=204, openapi_extra=raises("plan_conflict", "store_unavailable"))
async def clear_plan(services: Running, operator: Operator) -> None:
    """Forgets the plan; not while it is under way."""
    await services.ramp.set_plan(None, operator.name)


@router.post(
    "/start", openapi_extra=raises("plan_conflict", "rollback_impossible", "stale_revision", "store_unavailable")
)
async def start_ramp(services: Running, operator: Operator, body: StartBody | None = None) -> StatusView:
    """Begins the plan at its first step, with no evidence.

    Refused while `POOL_VERSION` pins all calls. Refused if V2 gets more than the first step, unless `lower` says so.
    """
    require_v1(services)
    body = body or StartBody(reason=None, lower=False)
    await services.ramp.start(operator.name, body.reason, lowers=body.lower)
    return await ask_status(services)


@router.post("/pause", openapi_extra=raises("plan_conflict", "stale_revision", "store_unavailable"))
async def pause_ramp(services: Running, operator: Operator, body: ReasonBody | None = None) -> StatusView:
    """Stops the ramp where it is."""
    return await _moved(services.ramp.pause, services, operator.name, body)


@router.post("/resume", openapi_extra=raises("plan_conflict", "stale_revision", "store_unavailable"))
async def resume_ramp(services: Running, operator: Operator, body: ReasonBody | None = None) -> StatusView:
    """Goes on at the step that the ramp stopped at, in spite of the guardrail that paused it."""
    return await _moved(services.ramp.resume, services, operator.name, body)


@router.post("/approve", openapi_extra=raises("plan_conflict", "stale_revision", "store_unavailable"))
async def approve_ramp(
    services: Running, operator: Operator, body: ApprovalBody | None = None, if_match: IfMatch = None
) -> StatusView:
    """Lets the ramp leave a step that waits for a person's approval.

    With `step`, or with the rollout's revision as `If-Match`, a second approval of the same step moves nothing.
    """
    expected, current = expected_revision(if_match), services.flag.current
    if expected is not None and expected != current.revision:
        raise StaleRevision(current)
    body = body or ApprovalBody(reason=None, step=None)
    await services.ramp.approve(operator.name, body.reason, body.step)
    return await ask_status(services)


@router.post("/promote", openapi_extra=raises("plan_conflict", "stale_revision", "store_unavailable"))
async def promote_ramp(services: Running, operator: Operator, body: ReasonBody | None = None) -> StatusView:
    """Gives V2 everything without waiting for evidence; the history says so."""
    return await _moved(services.ramp.promote, services, operator.name, body)


@router.post(
    "/abort", openapi_extra=raises("plan_conflict", "rollback_impossible", "stale_revision", "store_unavailable")
)
async def abort_ramp(services: Running, operator: Operator, body: ReasonBody | None = None) -> StatusView:
    """Ends the plan, and rolls back."""
    require_v1(services)
    return await _moved(services.ramp.abort, services, operator.name, body)


@router.get("/status")
async def show_status(services: Running, _: Reader) -> StatusView:
    """The ramp as it is, here and on the other replicas."""
    return await ask_status(services)


_Move = Callable[[str, str | None], Awaitable[Ramp]]


async def _moved(move: _Move, services: Services, by: str, body: ReasonBody | None) -> StatusView:
    await move(by, body.reason if body is not None else None)
    return await ask_status(services)


async def ask_status(services: Services) -> StatusView:
    """Asks all replicas of the machine for the ramp as it is."""
    answers = await services.machine.ask(STATUS, None)
    rows = await services.evidence.rows(max_age_s=EVIDENCE_AGE_S) if services.ramp.ramp.is_at_last_step else ()
    return status_view(services, answers, rows)


def status_view(services: Services, answers: Answers[StatusTold], evidence: Iterable[Row]) -> StatusView:
    """The ramp as it is shown, from what all replicas have told, and from the judge's rows at its last step."""
    ramp, current, machine = services.ramp.ramp, services.flag.current, services.machine
    percent = services.percent_of(current)
    leader = leading(answers.told, machine.index)
    missing = {one.replica for one in answers.missing}
    outstanding = services.judge.outstanding(evidence) if ramp.is_at_last_step else []
    reports = whole_reports(services.ramp.reports(), answers.told, machine.place_of)
    rows = [_replica_view(services, report, missing) for report in reports]
    return StatusView(
        state=ramp.state,
        step=ramp.step + 1,
        steps=0 if ramp.plan is None else len(ramp.plan.steps),
        canary_percent=percent,
        shadow_percent=shadow_percent_of(current, services),
        next=leader.next,
        verdict=leader.verdict,
        guardrail=leader.guardrail,
        since=leader.since,
        reason=_with_outstanding(leader.reason, outstanding),
        warning=ramp.warning,
        promotion=[_outstanding_view(one) for one in outstanding],
        by=ramp.by,
        pin=services.pin,
        in_force=all(row.rollout_revision >= current.revision and not row.is_silent for row in rows),
        missing_replicas=answers.missing_replicas,
        silent=[row.id for row in rows if row.is_silent],
        split=_split(percent, _sum([row.split for row in rows])),
        replicas=rows,
        database=_database_text(services.store_health.failure),
    )


def _outstanding_view(one: Outstanding) -> OutstandingView:
    if one.until is None:
        return OutstandingView(guardrail=one.guardrail, calls=None, seconds=None)
    return OutstandingView(guardrail=one.guardrail, calls=one.until.calls, seconds=one.until.seconds)


def _with_outstanding(reason: str | None, outstanding: Sequence[Outstanding]) -> str | None:
    """The reason of a ramp that waits for evidence, with each guardrail that is missing and when it is likely."""
    if reason != NEEDS_EVIDENCE or not outstanding:
        return reason
    return f"{reason}: {', '.join(map(outstanding_text, outstanding))}"


def _database_text(failure: StoreFailure | None) -> str | None:
    if failure is None:
        return None
    since = datetime.now(UTC) - timedelta(seconds=time.monotonic() - failure.since)
    return f"{failure.reason}, since {since:%Y-%m-%d %H:%M:%S}Z"


def _replica_view(services: Services, report: ReplicaReport, missing: Container[int]) -> ReplicaView:
    place = services.machine.place_of(report.id)
    return ReplicaView(
        id=report.id,
        replica=place,
        seen_at=report.seen_at,
        is_silent=report.is_silent or (place is not None and place in missing),
        rollout_revision=report.rollout_revision,
        split=_split(services.percent_of(services.flag.current), report.calls),
    )


def _split(asked: float, calls: tuple[int, int]) -> SplitView:
    total = sum(calls)
    return SplitView(
        asked_percent=asked, seen_percent=100 * calls[1] / total if total else None, v1=calls[0], v2=calls[1]
    )


def _sum(splits: list[SplitView]) -> tuple[int, int]:
    return sum(one.v1 for one in splits), sum(one.v2 for one in splits)
