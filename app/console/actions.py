"""The forms that act: each with a reason, and all but the rollback with the revision that the person looked at."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import structlog
from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from app.api.rollout import require_v1
from app.assets import root_path_of
from app.console.access import Operating, Visitor
from app.console.forms import InvalidForm, points_of, read_form, reason_of, revision_of
from app.console.headers import PREFIX
from app.console.pages import live_page, pools_page
from app.console.route import new_router
from app.console.words import ago, percent
from app.positions.reload import Asked
from app.problems import Problem
from app.replicas.acts import NotEverywhere, reload_everywhere, wait_until_warm_everywhere
from app.services import Running, Services
from pools.errors import NoPreviousCode, SpawnFailed
from routing.errors import NoPlan, PlanConflict, RollbackUnwritten, StaleRevision, StoreUnavailable
from routing.rollout.model import Change, Rollout, Source
from routing.versions import Version

router = new_router()

_REPEATED: Final = 64
_OF_KEYS: Final = frozenset({Source.API, Source.ROLLBACK, Source.ABORT})
"""Sources of changes that a person has made, with a key."""
_WRITE_S: Final = 0.4
"""The longest time that a rollback's page waits for the database, in seconds."""
_log = structlog.stdlib.get_logger("poolshift.console")


@router.post("/rollback")
async def roll_back(request: Request, visitor: Operating, services: Running) -> Response:
    """Sends all traffic to V1 from the next call on, whatever the database does."""
    form = await read_form(request)
    require_v1(services)
    writing = services.tasks.start(_roll_back(services, visitor.principal.name, reason_of(form)))
    # It is in force as soon as the task runs. A database that hangs must not keep the person waiting.
    done, _ = await asyncio.wait([writing], timeout=_WRITE_S)
    is_written = writing in done and writing.result()
    return _done(request, "rollback" if is_written else "rollback_unwritten")


async def _roll_back(services: Services, by: str, reason: str | None) -> bool:
    """Rolls back; tells if that is written already."""
    try:
        await services.flag.rollback(by, reason)
    except RollbackUnwritten:
        return False
    return True


@router.post("/set")
async def set_percent(request: Request, visitor: Operating, services: Running) -> Response:
    """Sets the percentage."""
    form = await read_form(request)
    require_v1(services)
    try:
        change = Change(points_of(form), Source.API, visitor.principal.name, reason_of(form))
        expected = await wait_until_warm_everywhere(services, change.canary_basis_points, revision_of(form))
        await services.flag.change(change, expected=expected)
    except (InvalidForm, StaleRevision, StoreUnavailable) as error:
        return await _refused(request, visitor, error)
    return _done(request, "set")


@router.post("/plan")
async def move_plan(request: Request, visitor: Operating, services: Running) -> Response:
    """Starts, pauses, resumes, approves, promotes or aborts the plan."""
    form = await read_form(request)
    verb = form.get("verb", "")
    ramp = services.ramp
    verbs: Mapping[str, Callable[[str, str | None], Awaitable[object]]] = {
        "start": ramp.start,
        "start_lower": partial(ramp.start, lowers=True),
        "pause": ramp.pause,
        "resume": ramp.resume,
        "approve": ramp.approve,
        "promote": ramp.promote,
        "abort": ramp.abort,
    }
    if verb not in verbs:
        raise Problem("invalid_request", f"{verb[:_REPEATED]!r} is nothing that can be done with a plan.")
    if verb in ("start", "start_lower", "abort"):
        require_v1(services)
    try:
        _check_revision(form, services)
        await verbs[verb](visitor.principal.name, reason_of(form))
    except RollbackUnwritten:
        return _done(request, "rollback_unwritten")
    except (InvalidForm, StaleRevision, PlanConflict, NoPlan, StoreUnavailable) as error:
        return await _refused(request, visitor, error)
    return _done(request, "plan")


@router.post("/reload")
async def reload(request: Request, visitor: Operating, services: Running) -> Response:
    """Replaces a pool's workers by workers with the code on disk, or the code before; answers when it is done."""
    form = await read_form(request)
    version = form.get("version", "")
    if version not in services.pools:
        raise Problem("not_found", f"This service runs no pool {version[:_REPEATED]!r}.")
    try:
        _check_revision(form, services)
        is_previous = form.get("code") == "previous"
        asked = Asked(by=visitor.principal.name, reason=reason_of(form), is_previous=is_previous)
        await reload_everywhere(services, Version(version), asked)
    except NotEverywhere as error:
        return await _refused(request, visitor, InvalidForm(f"Not all replicas have the code: {error}"), on_pools=True)
    except (SpawnFailed, NoPreviousCode) as error:
        failed = InvalidForm(f"The workers keep their code: {error}")
        return await _refused(request, visitor, failed, on_pools=True)
    except (InvalidForm, StaleRevision) as error:
        return await _refused(request, visitor, error, on_pools=True)
    return _done(request, "reload_previous" if is_previous else "reload", "/pools")


def _check_revision(form: Mapping[str, str], services: Services) -> None:
    """Raises StaleRevision if the flag has moved since the person looked at it."""
    current = services.flag.current
    if revision_of(form) != current.revision or not services.flag.is_written:
        raise StaleRevision(current)


def _done(request: Request, code: str, path: str = "") -> Response:
    return RedirectResponse(f"{root_path_of(request)}{PREFIX}{path}?done={code}", 303)


async def _refused(request: Request, visitor: Visitor, error: Exception, *, on_pools: bool = False) -> Response:
    """Shows the page as it is now, with what was in the way."""
    status, message = _explained(error)
    if on_pools:
        return await pools_page(request, visitor, message, status)
    return await live_page(request, visitor, "overview", problem=message, status=status)


def _explained(error: Exception) -> tuple[int, str]:
    if isinstance(error, StaleRevision):
        return 412, stale(error.current)
    if isinstance(error, StoreUnavailable):
        return 503, "The database does not answer, so nothing was changed. A rollback works all the same."
    if isinstance(error, PlanConflict | NoPlan):
        return 409, f"Nothing was changed: {error}."
    return 422, str(error)


def stale(current: Rollout) -> str:
    """The change that came first, in words."""
    since = ago(current.updated_at)
    when = "a moment ago" if "second" in since or "now" in since else since
    reason = f" ({current.reason})" if current.reason else ""
    who = f"key {current.updated_by}" if current.source in _OF_KEYS else current.updated_by
    changed = f"{who} changed it to {percent(current.canary_percent)} {when}{reason}"
    return f"Nothing was changed: {changed}. Look again, then decide."
