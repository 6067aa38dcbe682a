"""`/rollout`: the flag, its changes, its history, and the way back."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from app.api.schemas import (
    MAX_REVISION,
    Page,
    RevisionView,
    RollbackBody,
    RolloutBody,
    RolloutView,
    revision_view,
    rollout_view,
)
from app.auth import Admin, Executor
from app.problems import Problem
from app.services import Running
from routing.rollout.model import Change, Source, to_basis_points
from routing.versions import Version

router = APIRouter(prefix="/rollout", tags=["rollout"])


@router.get("")
async def show_rollout(parts: Running, _: Executor, response: Response) -> RolloutView:
    """The flag as it is in force here; its revision is the ETag, which a rollback has as soon as it is written."""
    current = parts.flag.current
    if parts.flag.is_written:
        response.headers["etag"] = f'"{current.revision}"'
    return rollout_view(current, parts.pin)


@router.patch("")
async def change_rollout(
    body: RolloutBody,
    parts: Running,
    admin: Admin,
    response: Response,
    if_match: Annotated[str | None, Header(description="The revision that the change is meant for")] = None,
) -> RolloutView:
    """Changes the percentage, from the next call on. With `If-Match`, only if nobody else has meanwhile.

    A reason alone is a revision too, of the percentage that is in force; a body with neither changes nothing.
    """
    if body.canary_percent is None and body.reason is None:
        return await show_rollout(parts, admin, response)
    current, expected = parts.flag.current, _revision(if_match)
    if body.canary_percent is not None:
        points = to_basis_points(body.canary_percent)
    else:  # the reason is for this percentage, and no other one
        points, expected = current.canary_basis_points, current.revision if expected is None else expected
    change = Change(points, Source.API, admin.name, body.reason)
    rollout = await parts.flag.change(change, expected=expected)
    response.headers["etag"] = f'"{rollout.revision}"'
    return rollout_view(rollout, parts.pin)


@router.post("/rollback")
async def roll_back(parts: Running, admin: Admin, body: RollbackBody | None = None) -> RolloutView:
    """All traffic to V1 from the next call on. Calls that wait for V2 move over; those that run there finish there."""
    if Version.V1 not in parts.pools:
        raise Problem("rollback_impossible", "this service runs without V1 (POOLS=v2)")
    body = body or RollbackBody()
    try:
        rollout = await parts.flag.rollback(admin.name, body.reason)
    finally:
        if body.in_flight == "replay":
            parts.router.replay_running()
    return rollout_view(rollout, parts.pin)


@router.get("/history")
async def show_history(
    parts: Running,
    _: Executor,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_REVISION, description="`next_cursor` of the page before")] = None,
) -> Page[RevisionView]:
    """Every change, the newest first."""
    found = await parts.flag.history(limit=limit + 1, before=cursor)
    items = [revision_view(rollout) for rollout in found[:limit]]
    return Page(items=items, next_cursor=str(found[limit - 1].revision) if len(found) > limit else None)


def _revision(if_match: str | None) -> int | None:
    """The revision that an If-Match header (RFC 9110, 13.1.1) names; `*` is any."""
    if if_match is None or if_match.strip() == "*":
        return None
    tag = if_match.strip().removeprefix("W/").strip('"')
    if not (tag.isascii() and tag.isdecimal()):
        raise Problem("invalid_request", f"If-Match: {if_match!r} is no revision")
    return int(tag)
