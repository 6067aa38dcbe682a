"""`/sessions`: list, show and end sessions."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Path, Query
from pydantic import Field

from app.access.auth import Executor, Reader
from app.api.base import Identifier, Out, Page, Router, Text, page_of
from app.openapi.document import raises
from app.replicas.acts import catch_up_elsewhere
from app.replicas.told import FLUSH, Kept
from app.services import Running
from routing.catalog.sessions import StoredSession
from routing.versions import Version

router = Router(prefix="/sessions", tags=["sessions"])
SessionId = Annotated[Identifier, Path()]


class SessionView(Out):
    """A session and what it holds."""

    id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    pool_version: Version | None = Field(description="The version that served it last")
    execution_count: int
    program_count: int


def session_view(session: StoredSession, ttl_s: float) -> SessionView:
    """Shows a session."""
    return SessionView(
        id=session.id,
        created_at=session.created_at,
        last_seen_at=session.last_seen_at,
        expires_at=session.last_seen_at + timedelta(seconds=ttl_s),
        pool_version=session.pool_version,
        execution_count=session.execution_count,
        program_count=session.program_count,
    )


@router.get("", openapi_extra=raises("store_unavailable"))
async def list_sessions(
    services: Running,
    reader: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[Text, Query(max_length=128, description="`next_cursor` of the page before")] = "",
) -> Page[SessionView]:
    """Lists sessions by id."""
    await services.machine.ask_others(FLUSH, Kept.SESSIONS)
    found = await services.sessions.page(reader.reader, limit=limit + 1, after=cursor)
    ttl_s = services.sessions.ttl_s
    return page_of(found, limit, view=lambda session: session_view(session, ttl_s), cursor=lambda session: session.id)


@router.get("/{session_id}", openapi_extra=raises("session_not_found", "store_unavailable"))
async def show_session(session_id: SessionId, services: Running, reader: Reader) -> SessionView:
    """Shows a session and the number of its programs."""
    await services.machine.ask_others(FLUSH, Kept.SESSIONS)
    return session_view(await services.sessions.show(session_id, reader.reader), services.sessions.ttl_s)


@router.delete("/{session_id}", status_code=204, openapi_extra=raises("session_not_found", "store_unavailable"))
async def end_session(session_id: SessionId, services: Running, executor: Executor) -> None:
    """Ends a session and frees its programs, its LM and its jobs. Its running calls go on."""
    await services.machine.ask_others(FLUSH, Kept.SESSIONS)
    await services.sessions.end(session_id, executor.caller)
    await catch_up_elsewhere(services)
