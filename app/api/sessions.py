"""`/sessions`: what they hold, and their end."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.api.schemas import Identifier, Page, SessionView, session_view
from app.auth import Executor
from app.services import Running

router = APIRouter(prefix="/sessions", tags=["sessions"])
SessionId = Annotated[Identifier, Path()]


@router.get("")
async def list_sessions(
    parts: Running,
    _: Executor,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str, Query(max_length=128, description="`next_cursor` of the page before")] = "",
) -> Page[SessionView]:
    """A page of sessions, by id."""
    found = await parts.sessions.page(limit=limit + 1, after=cursor)
    items = [session_view(session, parts.sessions.ttl_s) for session in found[:limit]]
    return Page(items=items, next_cursor=found[limit - 1].id if len(found) > limit else None)


@router.get("/{session_id}")
async def show_session(session_id: SessionId, parts: Running, _: Executor) -> SessionView:
    """A session and what it holds."""
    return session_view(await parts.sessions.show(session_id), parts.sessions.ttl_s)


@router.delete("/{session_id}", status_code=204)
async def end_session(session_id: SessionId, parts: Running, _: Executor) -> None:
    """Ends a session and frees what it holds; its calls that run go on, its long runs end."""
    await parts.sessions.end(session_id)
