"""`/programs/{id}/execute` and `/executions`: running a program, and the jobs that run in the background.

A call with `Prefer: respond-async` starts a job. `app.execute.endpoint` serves the execute call itself: what stands of
it here is its documentation.
"""

from typing import Annotated, Any

import msgspec
from fastapi import Header, Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, JsonValue
from starlette.types import Receive, Scope, Send

from app.access.auth import Executor, Reader
from app.api.base import MAX_KEY, Identifier, In, Out, Page, Router, Text, page_of
from app.api.execution_events import END_ID, EventResponse, JobStream
from app.execute.job_view import JobView, job_members, job_view
from app.execute.streaming import asks_for_events
from app.openapi.document import EXECUTION_HEADERS, V1_HEADERS, header, raises
from app.problems import ProblemView
from app.replicas.acts import cancel_elsewhere
from app.services import Running
from routing.catalog.jobs import Job, JobStatus
from routing.versions import Version

CALL_PROBLEMS = (
    "program_not_found",
    "session_not_found",
    "session_ended",
    "idempotency_conflict",
    "quota_exceeded",
    "store_unavailable",
)
"""Codes of calls and batches that are refused before anything runs, beside those of the request itself."""
ITEM_PROBLEMS = (
    "invalid_inputs",
    "invalid_outputs",
    "program_error",
    "load_failed",
    "load_timeout",
    "lm_not_configured",
    "lm_error",
    "pool_overloaded",
    "checkout_timeout",
    "execution_timeout",
    "worker_crashed",
    "program_quarantined",
    "pool_closed",
)
"""Codes of one run of a program, alone or as an item of a batch."""


class ExecuteBody(In):
    """A program's inputs."""

    inputs: dict[str, JsonValue]
    session_id: Identifier | None = None
    timeout_s: float | None = Field(
        None,
        gt=0,
        description="The deadline in seconds, for queue and run together; `EXECUTION_TIMEOUT_S` at most, and for a job "
        "`JOB_TIMEOUT_S`",
    )
    webhook: str | None = Field(
        None, max_length=2048, description="A URL that is told of a job's end, on a host that `WEBHOOK_ALLOW` names"
    )


class CallHeaders(BaseModel):
    """The headers that every call of a program understands."""

    x_pool_version: Text | None = Field(None, description="`v1` or `v2`: forces the version (admin)")
    x_canary_key: Text | None = Field(None, description="The key of the split if there is no session")
    traceparent: Text | None = Field(None, description="W3C trace context; it reaches the worker")
    tracestate: Text | None = Field(None, description="As W3C has it; it reaches the worker")
    baggage: Text | None = Field(None, description="As W3C has it; it reaches the worker")
    idempotency_key: Text | None = Field(
        None, max_length=300, description="Runs the request once, however often it is sent with this key"
    )


class ExecuteHeaders(CallHeaders):
    """The headers that a call of one run understands, in addition."""

    prefer: Text | None = Field(None, description="`respond-async`: answer 202 and let it run")


class UsageView(Out):
    """Tokens that an execution used, as the LM counts them."""

    prompt_tokens: int
    completion_tokens: int


class ExecuteView(Out):
    """The answer to an execution that succeeded."""

    execution_id: str
    program_id: str
    pool_version: Version
    outputs: dict[str, JsonValue]
    duration_ms: float = Field(description="From the request to the answer, in milliseconds")
    usage: UsageView | None = Field(None, exclude_if=lambda usage: usage is None, description="Only of DSPy programs")


class JobResultView(JobView):
    """A job and the answer that a synchronous call would have had."""

    result: ExecuteView | None
    problem: ProblemView | None


def job_result(job: Job, *, with_details: bool) -> Response:
    """Shows a job as `JobResultView` has it. The kept answer goes out as it is: outputs may be nested without limit."""
    answer = {**job_members(job), "result": None, "problem": None}
    if job.body is not None and job.status is JobStatus.SUCCEEDED:
        answer["result"] = msgspec.Raw(job.body)
    elif job.body is not None:
        answer["problem"] = msgspec.Raw(job.body if with_details else _without_details(job.body))
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _without_details(problem: bytes) -> bytes:
    members = msgspec.json.decode(problem)
    kept = {name: members[name] for name in ProblemView.model_fields}
    return msgspec.json.encode({**kept, "detail": kept["title"]})


class _LaneRoute(APIRoute):
    """Documents the lane like any other endpoint; whatever gets this far goes to the lane as well."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await scope["app"].lane(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


_OTHER_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs, or the stream of events that ends with them",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: progress\ndata: {"done": 1}\n\nevent: result\ndata: {"execution_id": "…"}\n\n',
            }
        },
    },
    202: {
        "model": JobView,
        "description": "It runs; its result will be at `Location`",
        "headers": {
            "Location": header("Location"),
            "Preference-Applied": header("Preference-Applied"),
        },
    },
}

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The job, or the stream of its events",
        "content": {
            "text/event-stream": {"schema": {"type": "string"}, "example": "id: 2\nevent: progress\ndata: 1\n\n"}
        },
    },
    204: {"description": "The client has all events: `Last-Event-ID` is that of the last one"},
}

ExecutionId = Annotated[Text, Path()]

execute_router = Router(tags=["programs"], route_class=_LaneRoute)
router = Router(prefix="/executions", tags=["executions"])


@execute_router.post(
    "/programs/{program_id}/execute",
    responses=_OTHER_RESPONSES,
    openapi_extra=raises(*CALL_PROBLEMS, *ITEM_PROBLEMS, headers=(*EXECUTION_HEADERS, *V1_HEADERS)),
)
async def execute_program(
    program_id: Annotated[Text, Path()],
    body: ExecuteBody,
    _: Executor,
    __: Annotated[ExecuteHeaders, Header()],
) -> ExecuteView:
    """Runs a program once, on the version that the rollout decides.

    With `Accept: text/event-stream` the answer is a stream: `progress` and `output` events as they come, then one
    `result` or `error`. With `Prefer: respond-async` it is 202, and `Location` says where to look for the result.
    """
    raise NotImplementedError  # `app.execute.endpoint` serves this; the signature is its documentation


@router.get("", openapi_extra=raises("store_unavailable"))
async def list_executions(
    services: Running,
    reader: Reader,
    session_id: Annotated[Identifier | None, Query(description="Its jobs; without it those of no session")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_KEY, description="`next_cursor` of the page before")] = None,
) -> Page[JobView]:
    """Lists jobs, the newest first, without their results."""
    found = await services.jobs.page(session_id, reader.reader, limit=limit + 1, before=cursor)
    return page_of(found, limit, view=job_view, cursor=lambda job: job.key)


@router.get(
    "/{execution_id}",
    response_model=JobResultView,
    responses=_EVENTS,
    openapi_extra=raises("execution_not_found", "store_unavailable"),
)
async def show_execution(
    execution_id: ExecutionId,
    request: Request,
    services: Running,
    reader: Reader,
    last_event_id: Annotated[
        Text | None, Header(max_length=64, description="The id of the last event that the client has")
    ] = None,
) -> Response:
    """Shows how far a job is, and its result.

    With `Accept: text/event-stream` the answer is a stream of its events, which `Last-Event-ID` takes up again.
    """
    job = await services.jobs.show(execution_id, reader.reader)
    with_details = reader.sees_details(job.owner)
    if not asks_for_events(request.headers.get("accept", "").encode("latin-1")):
        return job_result(job, with_details=with_details)
    if last_event_id == END_ID:
        return Response(status_code=204)  # an EventSource does not connect again then

    def show(one: Job) -> bytes:
        return bytes(job_result(one, with_details=with_details).body)

    stream = JobStream(services.jobs, show, last_event_id, lambda: request.app.state.is_draining)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return EventResponse(stream.parts(job), headers=headers)


@router.delete(
    "/{execution_id}",
    response_model=JobResultView,
    openapi_extra=raises("execution_not_found", "store_unavailable"),
)
async def cancel_execution(execution_id: ExecutionId, services: Running, executor: Executor) -> Response:
    """Cancels a job and kills its program; one that is over stays as it is."""
    job = await services.jobs.cancel(execution_id, executor.caller)
    if not job.status.is_over and not services.machine.is_alone:
        await cancel_elsewhere(services, execution_id)
        job = await services.jobs.show(execution_id, executor.caller)
    return job_result(job, with_details=True)
