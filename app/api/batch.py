"""`POST /programs/{id}/batch`: running a program many times.

`app.execute.batch` serves the call itself: this is its documentation.
"""

from typing import Annotated

from fastapi import Header, Path
from fastapi.routing import APIRoute
from pydantic import Field, JsonValue
from starlette.types import Receive, Scope, Send

from app.access.auth import Executor
from app.api.base import Identifier, In, Out, Router, Text
from app.api.executions import CALL_PROBLEMS, CallHeaders, ExecuteView
from app.execute.envelopes import MAX_ITEMS
from app.openapi.document import V1_HEADERS, raises
from app.problems import ProblemView


class BatchBody(In):
    """The inputs of a program, once for each item."""

    inputs: list[dict[str, JsonValue]] = Field(max_length=MAX_ITEMS)
    session_id: Identifier | None = None
    timeout_s: float | None = Field(
        None, gt=0, description="The deadline of each item in seconds, from its begin; `EXECUTION_TIMEOUT_S` at most"
    )


class BatchView(Out):
    """The answers of a batch's items, in the order of the inputs."""

    items: list[ExecuteView | ProblemView] = Field(description="What an execute call answers, or its problem")


class _BatchRoute(APIRoute):
    """Documents the endpoint like any other, and hands its requests over unread."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await scope["app"].batches(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


router = Router(tags=["programs"], route_class=_BatchRoute)


@router.post(
    "/programs/{program_id}/batch",
    openapi_extra=raises(*CALL_PROBLEMS, "pool_overloaded", "pool_closed", headers=V1_HEADERS),
)
async def run_batch(
    program_id: Annotated[Text, Path()],
    body: BatchBody,
    _: Executor,
    __: Annotated[CallHeaders, Header()],
) -> BatchView:
    """Runs a program once for each item, and answers when all have ended.

    Each item is routed by itself, and has its own execution and outcome: the answer is 200 if all have failed, too.
    """
    raise NotImplementedError  # `app.execute.batch` serves this; the signature is its documentation
