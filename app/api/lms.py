"""`/lm` and `/sessions/{id}/lm`: which LM DSPy programs run on. Keys go in and never come out."""

from fastapi import APIRouter

from app.api.schemas import LMBody, LMView, lm_view
from app.api.sessions import SessionId
from app.auth import Admin, Executor
from app.problems import Problem
from app.services import Parts, Running
from poolshift.worker.lm import LOCAL

router = APIRouter(tags=["lm"])


@router.get("/lm")
async def show_lm(parts: Running, _: Executor) -> LMView:
    """What DSPy programs run on where their session has nothing of its own."""
    return lm_view(*parts.lms.shown(None))


@router.put("/lm")
async def set_lm(body: LMBody, parts: Running, admin: Admin) -> LMView:
    """Sets everyone's LM, from the next call on."""
    return await _set(None, body, parts, admin.name)


@router.get("/sessions/{session_id}/lm")
async def show_session_lm(session_id: SessionId, parts: Running, _: Executor) -> LMView:
    """What a session's DSPy programs run on: its own LM, else everyone's."""
    return lm_view(*parts.lms.shown(session_id))


@router.put("/sessions/{session_id}/lm")
async def set_session_lm(session_id: SessionId, body: LMBody, parts: Running, executor: Executor) -> LMView:
    """Sets a session's LM, from its next call on; it is forgotten when the session ends."""
    parts.sessions.seen(session_id)
    await parts.sessions.flush()  # the session first: an LM without one would never be forgotten
    return await _set(session_id, body, parts, executor.name)


@router.delete("/sessions/{session_id}/lm", status_code=204)
async def remove_session_lm(session_id: SessionId, parts: Running, _: Executor) -> None:
    """Gives a session everyone's LM again."""
    await parts.lms.remove(session_id)


async def _set(session_id: str | None, body: LMBody, parts: Parts, by: str) -> LMView:
    if body.model == LOCAL and not parts.lms.has_local:
        raise Problem("invalid_request", "body.model: this service runs no model itself (LM_MODEL=local does)")
    await parts.lms.put(session_id, body.settings(), by)
    return lm_view(*parts.lms.shown(session_id))
