"""`/executions`: long runs, which nobody waits for (`Prefer: respond-async` on execute starts one)."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.schemas import MAX_KEY, ExecutionView, Identifier, LongRunView, Page, execution_view, long_run_view
from app.auth import Executor
from app.services import Running

router = APIRouter(prefix="/executions", tags=["executions"])


def prefers_async(prefer: bytes) -> bool:
    """Whether a Prefer header (RFC 7240) has `respond-async`."""
    return any(preference.partition(b";")[0].strip().lower() == b"respond-async" for preference in prefer.split(b","))


@router.get("")
async def list_executions(
    parts: Running,
    _: Executor,
    session_id: Annotated[
        Identifier | None, Query(description="Its executions; without it those of no session")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_KEY, description="`next_cursor` of the page before")] = None,
) -> Page[ExecutionView]:
    """A page of long runs, the newest first, without what came of them."""
    found = await parts.executions.page(session_id, limit=limit + 1, before=cursor)
    items = [execution_view(execution) for execution in found[:limit]]
    return Page(items=items, next_cursor=str(found[limit - 1].key) if len(found) > limit else None)


# Unset is what the synchronous answer leaves out too.
@router.get("/{execution_id}", response_model_exclude_unset=True)
async def show_execution(execution_id: str, parts: Running, _: Executor) -> LongRunView:
    """How far a long run is, and what came of it."""
    return long_run_view(await parts.executions.show(execution_id))


@router.delete("/{execution_id}", response_model_exclude_unset=True)
async def cancel_execution(execution_id: str, parts: Running, _: Executor) -> LongRunView:
    """Cancels a long run and kills its program; one that is over stays as it is."""
    return long_run_view(await parts.executions.cancel(execution_id))
