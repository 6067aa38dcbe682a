"""`/rollout/analysis`, `/rollout/decisions`: the evidence behind the verdicts, now and for ever."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from analysis.verdict import Finding, Row
from app.access.auth import Admin, Observer, Principal
from app.api.base import MAX_KEY, Out, Page, Router, page_of
from app.openapi.document import raises
from app.replicas.told import EXAMPLES, JudgedExample
from app.replicas.views import interleaved
from app.services import Running
from config.api_keys import Scope
from routing.rollout.live_judge import MAX_EXAMPLES
from routing.rollout.ramp_store import Decision

router = Router(prefix="/rollout", tags=["rollout"])


_TRACE_LINE = '{"t": 0.5, "w": 0.05, "arm": "v2", "key": null, "program": "keywords", "outcome": "ok", "ms": 2.1}\\n'
_TRACE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A line of JSON for each call",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": _TRACE_LINE,
            }
        },
        "headers": {
            "X-Dropped-Calls": {
                "description": "Calls that the judge saw and that are no longer kept",
                "schema": {"type": "integer"},
            }
        },
    }
}


class TallyView(Out):
    """One version's calls, and those that were faults."""

    calls: int
    faults: int


class DetectableView(Out):
    """The regression that would be found, and when; null is "never in this ramp"."""

    ratio: float
    calls: int | None
    seconds: float | None


class UntilView(Out):
    """Further organic calls, and the time that they take at the present rate."""

    calls: int
    seconds: float | None


class ExampleView(Out):
    """An execution whose fault is part of the evidence."""

    execution_id: str
    trace_id: str | None
    code: str
    detail: str | None = Field(description="For admins alone")


class GuardrailView(Out):
    """One guardrail's evidence against V2."""

    name: str
    action: str
    log_e: float = Field(description="Natural logarithm of the e-value; at the threshold the guardrail acts")
    threshold: float
    v1: TallyView
    v2: TallyView
    ratio: tuple[float, float | None] = Field(description="Always-valid interval of V2 over V1; null is no upper bound")
    stratum: str = Field(description="What the evidence is mostly about: `all`, `code=…`, `program=…`")
    finding: Finding = Field(
        description="`against` V2; `suspected`: on half of the evidence that it takes; `alike`: V2 is shown not to be "
        "worse by the margin; `unknown`: none of these yet"
    )
    suspects: list[str] = Field(description="Parts that speak against V2 so far, which may be chance")
    until_shown: UntilView | None = Field(
        description="When that is likely, if V2 is as good as V1; null if it is shown, or not to be foreseen"
    )
    not_shown: list[str] = Field(
        description="Programs of which this step does not show that V2 is not slower, 100 at most: for `latency` and "
        "`tail`. A promotion waits for those with a twentieth of the calls, and names the others"
    )
    detectable: DetectableView
    examples: list[ExampleView]


class DecisionView(Out):
    """A verdict with the evidence that it was made on."""

    verdict: str
    guardrail: str | None
    at: datetime
    evidence: dict[str, Any]


@router.get("/analysis", openapi_extra=raises("store_unavailable"))
async def show_analysis(services: Running, principal: Observer) -> list[GuardrailView]:
    """A row for each guardrail, on the calls of all replicas; the newest examples are those of this machine."""
    rows, answers = await asyncio.gather(services.evidence.rows(), services.machine.ask(EXAMPLES, None))

    def examples(guardrail: str) -> list[JudgedExample]:
        return interleaved([told.get(guardrail, []) for told in answers.all], MAX_EXAMPLES)

    return [_view(row, examples(row.name), principal) for row in rows]


@router.get("/analysis/trace", response_class=StreamingResponse, responses=_TRACE)
async def export_trace(services: Running, _: Admin) -> StreamingResponse:
    """Exports the calls that this replica's judge saw, as JSON lines for `poolshift judge replay`; keys are hashes."""
    recording = services.judge.recording.snapshot()
    return StreamingResponse(
        _lines(recording.lines()),
        media_type="application/x-ndjson",
        headers={"x-dropped-calls": str(recording.dropped)},
    )


@router.get("/decisions", openapi_extra=raises("store_unavailable"))
async def show_decisions(
    services: Running,
    principal: Observer,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_KEY, description="`next_cursor` of the page before")] = None,
) -> Page[DecisionView]:
    """Every verdict, the newest first."""
    found = await services.ramp.decisions(limit=limit + 1, before=cursor)
    return page_of(found, limit, view=lambda one: decision_view(one, principal), cursor=lambda one: one.key)


def decision_view(decision: Decision, principal: Principal) -> DecisionView:
    """Shows a verdict; details of executions are for admins alone."""
    evidence = decision.evidence
    return DecisionView(
        verdict=decision.verdict,
        guardrail=decision.guardrail,
        at=decision.at,
        evidence=dict(evidence) if principal.may(Scope.ADMIN) else _without_details(evidence),
    )


def _view(row: Row, examples: Sequence[JudgedExample], principal: Principal) -> GuardrailView:
    shown = [
        ExampleView(
            execution_id=one.execution_id,
            trace_id=one.trace_id,
            code=one.code,
            detail=one.detail if principal.may(Scope.ADMIN) else None,
        )
        for one in examples
    ]
    told = {**asdict(row), "finding": row.finding, "examples": [one.model_dump() for one in shown]}
    return GuardrailView.model_validate(told)


def _without_details(evidence: Any) -> dict[str, Any]:
    return {**evidence, "examples": [{**one, "detail": None} for one in evidence.get("examples", ())]}


def _lines(recorded: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for line in recorded:
        yield msgspec.json.encode(line) + b"\n"
