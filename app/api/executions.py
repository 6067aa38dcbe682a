"""`/programs/{id}/execute` and `/executions`: running a program, and the jobs that run in the background.

A call with `Prefer: respond-async` starts a job. `app.execute.endpoint` serves the execute call itself: what stands of
it here is its documentation.
"""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from fastapi.routing import APIRoute
from pydantic import Field, JsonValue
from starlette.types import Receive, Scope, Send

from app.api.base import MAX_KEY, Identifier, In, Out, Page, Text
from app.auth import Executor
from app.problems import ProblemView
from app.services import Running
from routing.catalog.jobs import Job, JobStatus
from routing.versions import Version


class ExecuteBody(In):
    """A program's inputs."""

    inputs: dict[str, JsonValue]
    session_id: Identifier | None = None
    timeout_s: float | None = Field(None, gt=0, description="The deadline in seconds, for queue and run together")


class UsageView(Out):
    """Tokens that an execution used, as the LM counts them."""

    prompt_tokens: int
    completion_tokens: int


class ExecuteView(Out):
    """How an execution ended well."""

    execution_id: str
    program_id: str
    pool_version: Version
    outputs: dict[str, JsonValue]
    duration_ms: float = Field(description="From the request to the answer, in milliseconds")
    usage: UsageView | None = Field(None, exclude_if=lambda usage: usage is None, description="Only of DSPy programs")


class JobView(Out):
    """A long run."""

    execution_id: str
    program_id: str
    session_id: str | None
    status: JobStatus
    pool_version: Version | None = Field(description="The version that runs it, or whose queue it is in")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class LongRunView(JobView):
    """A long run and what came of it: what a synchronous call would have been answered with."""

    result: ExecuteView | None
    problem: ProblemView | None


def job_view(job: Job) -> JobView:
    """A long run as it is shown in a list."""
    return JobView(**_job_members(job))


def long_run_view(job: Job) -> LongRunView:
    """A long run with what came of it."""
    body, succeeded = job.body, job.status is JobStatus.SUCCEEDED
    return LongRunView(
        **_job_members(job),
        result=ExecuteView.model_validate_json(body) if body is not None and succeeded else None,
        problem=ProblemView.model_validate_json(body) if body is not None and not succeeded else None,
    )


def _job_members(job: Job) -> dict[str, Any]:
    return {
        "execution_id": job.id,
        "program_id": job.program_id,
        "session_id": job.session_id,
        "status": job.status,
        "pool_version": job.pool_version,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
    }


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
            "Location": {"description": "`/executions/{id}`", "schema": {"type": "string"}},
            "Preference-Applied": {"description": "`respond-async`", "schema": {"type": "string"}},
        },
    },
}

ExecutionId = Annotated[Text, Path()]

execute_router = APIRouter(tags=["programs"], route_class=_LaneRoute)
router = APIRouter(prefix="/executions", tags=["executions"])


@execute_router.post("/programs/{program_id}/execute", responses=_OTHER_RESPONSES)
async def execute_program(
    program_id: Annotated[Text, Path()],
    body: ExecuteBody,
    _: Executor,
    x_pool_version: Annotated[Text | None, Header(description="`v1` or `v2`: forces the version (admin)")] = None,
    x_canary_key: Annotated[Text | None, Header(description="What the split goes by where there is no session")] = None,
    traceparent: Annotated[Text | None, Header(description="W3C trace context; it reaches the worker")] = None,
    tracestate: Annotated[Text | None, Header(description="As W3C has it; it reaches the worker")] = None,
    baggage: Annotated[Text | None, Header(description="As W3C has it; it reaches the worker")] = None,
    prefer: Annotated[Text | None, Header(description="`respond-async`: answer 202 and let it run")] = None,
) -> ExecuteView:
    """Runs a program once, on the version that the rollout decides.

    With `Accept: text/event-stream` the answer is a stream: `progress` and `output` events as they come, then one
    `result` or `error`. With `Prefer: respond-async` it is 202, and `Location` says where to look for the result.
    """
    raise NotImplementedError  # `app.execute.endpoint` serves this; the signature is its documentation


@router.get("")
async def list_executions(
    services: Running,
    _: Executor,
    session_id: Annotated[Identifier | None, Query(description="Its jobs; without it those of no session")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_KEY, description="`next_cursor` of the page before")] = None,
) -> Page[JobView]:
    """A page of long runs, the newest first, without what came of them."""
    found = await services.jobs.page(session_id, limit=limit + 1, before=cursor)
    items = [job_view(job) for job in found[:limit]]
    return Page(items=items, next_cursor=str(found[limit - 1].key) if len(found) > limit else None)


# Unset is what the synchronous answer leaves out too.
@router.get("/{execution_id}", response_model_exclude_unset=True)
async def show_execution(execution_id: ExecutionId, services: Running, _: Executor) -> LongRunView:
    """How far a long run is, and what came of it."""
    return long_run_view(await services.jobs.show(execution_id))


@router.delete("/{execution_id}", response_model_exclude_unset=True)
async def cancel_execution(execution_id: ExecutionId, services: Running, _: Executor) -> LongRunView:
    """Cancels a long run and kills its program; one that is over stays as it is."""
    return long_run_view(await services.jobs.cancel(execution_id))
