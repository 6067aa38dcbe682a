"""`/shadow`: the comparison of V1's and V2's outputs, and the quality by the programs' own metrics."""

from collections.abc import Mapping
from typing import Literal

import msgspec
from pydantic import Field, JsonValue

from analysis.odd_ones import FieldRow, Verdict
from analysis.quality import QualityRow
from app.access.auth import Admin, Observer, Principal
from app.api.base import Identifier, In, Out, Router
from app.api.programs.resource import ProgramId
from app.api.rollout import shadow_percent_of
from app.openapi.document import raises
from app.problems import Problem
from app.replicas.told import SHADOW
from app.services import Running, Services
from common.threads import in_check_thread
from config.api_keys import Scope
from routing.errors import StoreUnavailable
from routing.shadow.examples import MAX_EXAMPLES as KEPT_EXAMPLES
from routing.shadow.examples import Example, gravest_first
from routing.shadow.reports import ProgramReport, ShadowReports
from routing.versions import Version

router = Router(prefix="/shadow", tags=["shadow"])
MAX_FIELDS = 1000
"""Fields that the report of all programs lists: those that differ, and those with the most evidence."""
MAX_EXAMPLES = 20
COMPARE_ERRORS = ("program_not_found", "store_unavailable", "pool_overloaded", "checkout_timeout", "pool_closed")


class MissingView(Out):
    """The comparisons that are missing until something is likely to be known."""

    calls: int
    seconds: float | None = Field(description="The same at the rate so far; null if it is not known")


class ShadowFieldView(Out):
    """One output of one program, compared."""

    program_id: str
    field: str = Field(description="`$error` stands for the code of the error, or none")
    compared: int
    differing: int = Field(description="Calls whose values differ between V1 and V2")
    noise: int = Field(description="Those of them that V1 compared with itself explains")
    differs: bool = Field(description="The verdict: at most 1 % of reports call any field different if V2 equals V1")
    verdict: Verdict = Field(
        description="`suspected` if all odd ones so far are V2's, or on half of the evidence that a difference takes; "
        "`alike` if surely no more than 5 % of calls really differ; `unknown` while that is not shown"
    )
    missing: MissingView | None = Field(
        description="What it takes until the field is likely to differ, or to be alike, if its shares stay; "
        "null if that is known, or not to be foreseen"
    )
    interval: tuple[float, float] = Field(description="Always-valid interval of the share that really differs")
    log_e: float
    threshold: float


class QualityView(Out):
    """The scores by a program's metric, as shares of its range."""

    v1_mean: float | None
    v2_mean: float | None
    pairs: int
    organic: tuple[int, int] = Field(description="Scored organic calls of V1 and of V2")
    interval: tuple[float, float] = Field(description="Always-valid interval of V2's mean minus V1's")
    log_e: float
    threshold: float
    worse: bool
    not_worse: bool = Field(description="True on evidence that V2 is not worse by 0.05")


class ShadowExampleView(Out):
    """A call whose outputs differ. Inputs and values are for admins, and cut."""

    program_id: str
    execution_id: str
    trace_id: str | None
    odd: dict[str, Literal["v1", "v2", "none", "unknown"]]
    inputs: str | None
    v1: dict[str, str] | None
    v2: dict[str, str] | None
    diff: list[str] | None


class ShadowProgramView(Out):
    """The shadow calls of one program, or of all."""

    compared: int
    differing: int
    shed: int
    shed_reasons: dict[str, int] = Field(
        description="By reason: the part that was busy (`event_loop_busy`, `processors_busy`, `no_idle_worker`), "
        "`too_many_at_once`, `preempted` by a real call, `quarantined`, or the code of an error"
    )
    fields: list[ShadowFieldView]
    quality: QualityView | None
    metric_failures: dict[str, int] = Field(description="Runs of the metric without a score, by reason")
    v1_ms: float | None = Field(description="Mean time in the program on V1; shown, not judged")
    v2_ms: float | None
    examples: list[ShadowExampleView]
    missing_replicas: list[str] = Field(
        description="Replicas of this machine whose newest calls and examples are missing here, with the reason"
    )


class ShadowView(ShadowProgramView):
    """All programs together, on all replicas."""

    shadow_percent: float
    programs: list[str] = Field(description="Those that are compared; the ones that differ come first")
    never_run: list[str] | None = Field(
        description="Programs with traffic in the last 24 h that V2 has never run, as a copy or a call; "
        "null if the database does not answer"
    )


class CompareBody(In):
    """Inputs on which both versions are compared."""

    inputs: dict[str, JsonValue]
    session_id: Identifier | None = None


class ComparedView(Out):
    """A call that ran on both versions."""

    fields: dict[str, Literal["same", "v1", "v2", "none", "unknown"]] = Field(
        description="By field: the same, or the odd one of three runs"
    )
    v1_error: str | None = Field(description="Code of V1's error; null if it has outputs")
    v2_error: str | None = Field(description="Code of V2's error; null if it has outputs")
    v1_ms: float
    v2_ms: float
    example: ShadowExampleView | None = Field(description="If a field differs, unless SHADOW_EXAMPLES=off")


@router.get("")
async def show_shadow(services: Running, principal: Observer) -> ShadowView:
    """Shows the shadow calls of all replicas: what differs, and what is noise. The examples are this machine's."""
    reports, missing = await _reports(None, services)
    found = await in_check_thread(lambda: reports.overall(MAX_FIELDS))
    return ShadowView(
        shadow_percent=shadow_percent_of(services.flag.current, services),
        programs=found.programs,
        never_run=await _never_run(services),
        compared=found.compared,
        differing=found.differing,
        shed=sum(found.shed.values()),
        shed_reasons=dict(found.shed),
        fields=[_field(row, reports.rates) for row in found.fields],
        quality=_quality(found.quality),
        metric_failures=dict(found.metric_failures),
        v1_ms=None,
        v2_ms=None,
        examples=[_example(program_id, one, principal) for program_id, one in found.examples[:MAX_EXAMPLES]],
        missing_replicas=missing,
    )


async def _never_run(services: Services) -> list[str] | None:
    if services.router.watch.is_on:  # all calls are V2's
        return []
    try:
        return (await services.ramp.coverage.look()).never_run
    except StoreUnavailable:
        return None


@router.get("/{program_id}", operation_id="show_program_shadow", openapi_extra=raises("not_found"))
async def show_program(program_id: ProgramId, services: Running, principal: Observer) -> ShadowProgramView:
    """Shows the shadow calls of one program."""
    one, rates, missing = await _report(program_id, services)
    return ShadowProgramView(
        compared=one.compared,
        differing=one.differing,
        shed=sum(one.shed.values()),
        shed_reasons=dict(one.shed),
        fields=[_field(row, rates) for row in one.fields],
        quality=_quality(one.quality),
        metric_failures=dict(one.metric_failures),
        v1_ms=one.v1_ms,
        v2_ms=one.v2_ms,
        examples=[_example(program_id, example, principal) for example in one.examples],
        missing_replicas=missing,
    )


@router.post("/{program_id}/compare", openapi_extra=raises(*COMPARE_ERRORS))
async def compare(body: CompareBody, program_id: ProgramId, services: Running, admin: Admin) -> ComparedView:
    """Runs a call on both versions and compares them; for inputs that somebody has, also without any traffic.

    The calls are forced on each version and synthetic: they are in no organic figure, and change no evidence.
    """
    if len(services.pools) < len(Version) or services.pin is not None:
        raise Problem("invalid_request", "both versions must run, and POOL_VERSION must not pin the calls to one")
    _refuse_without_workers(services)
    program = services.programs.resolve(program_id, body.session_id)
    program = program or await services.programs.seek(program_id, body.session_id)
    if not (program.definition.idempotent or program.definition.shadow):
        detail = f"the program {program_id!r} is not idempotent and does not say `shadow`: it would do its work twice"
        raise Problem("invalid_request", detail)
    seconds = services.deadlines.seconds(None, program.definition, is_job=False)
    inputs = msgspec.json.encode(body.inputs)
    found = await services.shadow.on_demand.compare(program, inputs, body.session_id, seconds)
    example = None if found.example is None else _example(program_id, found.example, admin)
    return ComparedView(
        fields=dict(found.fields),
        v1_error=found.v1_error,
        v2_error=found.v2_error,
        v1_ms=found.v1_ms,
        v2_ms=found.v2_ms,
        example=example,
    )


def _refuse_without_workers(services: Services) -> None:
    """Refuses a comparison with a pool that cannot start a worker: each call would wait for its whole deadline."""
    for version, pool in services.pools.items():
        if pool.is_down:
            why = pool.fault or "it cannot start one"
            raise Problem("invalid_request", f"both versions must run, and {version.upper()} has no worker: {why}")


async def _reports(program_id: str | None, services: Services) -> tuple[ShadowReports, list[str]]:
    """The evidence of all replicas with their examples, of one program or all; and the replicas that are missing."""
    answers = await services.machine.ask(SHADOW, program_id)
    if not services.machine.is_alone:
        await services.shadow.exchange()  # the others have written theirs
    examples: dict[str, list[Example]] = {}
    for one in answers.all:
        for of_program, kept in one.items():
            examples.setdefault(of_program, []).extend(kept)
    gravest = {of_program: gravest_first(kept)[:KEPT_EXAMPLES] for of_program, kept in examples.items()}
    return services.shadow.evidence.reports(gravest), answers.missing_replicas


async def _report(program_id: str, services: Services) -> tuple[ProgramReport, Mapping[str, float], list[str]]:
    reports, missing = await _reports(program_id, services)
    try:
        return await in_check_thread(lambda: reports.of(program_id)), reports.rates, missing
    except KeyError:
        raise Problem("not_found", f"no call of the program {program_id!r} has been compared or scored") from None


def _field(row: FieldRow, rates: Mapping[str, float]) -> ShadowFieldView:
    rate = rates.get(row.program)
    return ShadowFieldView(
        program_id=row.program,
        field=row.field,
        compared=row.compared,
        differing=row.differing,
        noise=row.noise,
        differs=row.differs,
        verdict=row.verdict,
        missing=None
        if row.missing is None
        else MissingView(calls=row.missing, seconds=row.missing / rate if rate else None),
        interval=row.interval,
        log_e=row.log_e,
        threshold=row.threshold,
    )


def _quality(row: QualityRow | None) -> QualityView | None:
    if row is None:
        return None
    return QualityView(
        v1_mean=row.v1_mean,
        v2_mean=row.v2_mean,
        pairs=row.pairs,
        organic=row.organic,
        interval=row.interval,
        log_e=row.log_e,
        threshold=row.threshold,
        worse=row.worse,
        not_worse=row.not_worse,
    )


def _example(program_id: str, example: Example, principal: Principal) -> ShadowExampleView:
    is_shown = principal.may(Scope.ADMIN)
    return ShadowExampleView(
        program_id=program_id,
        execution_id=example.execution_id,
        trace_id=example.trace_id,
        odd=dict(example.odd),
        inputs=example.inputs if is_shown else None,
        v1=dict(example.v1) if is_shown else None,
        v2=dict(example.v2) if is_shown else None,
        diff=list(example.diff) if is_shown else None,
    )
