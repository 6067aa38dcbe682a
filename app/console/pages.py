"""The pages that look: none of them changes anything."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from app.api.analysis import decision_view
from app.api.base import MAX_KEY, MAX_REVISION, Text
from app.api.failures import failure_view
from app.api.migration import migration_view
from app.api.pools import difference_view
from app.api.rollout import require_v1, revision_view
from app.api.shadow import show_shadow
from app.assets import root_path_of
from app.console.access import Viewing, Visitor, check_origin, is_secure, with_scope
from app.console.forms import read_form
from app.console.headers import PREFIX
from app.console.live import TooManyViewers
from app.console.login import COOKIE, LIFETIME_S
from app.console.navigation import LIVE_PAGES
from app.console.rendering import audience_of, context_of
from app.console.route import console_of, new_router, visitor_or_none
from app.console.validation import report_of
from app.positions.identity import pools_difference
from app.problems import Problem
from app.replicas.told import FAILURES, FailuresAsked
from app.replicas.views import whole_failures
from app.services import Running, Services
from config.api_keys import Scope
from routing.errors import StoreUnavailable
from routing.migration.phases import Phase
from routing.versions import Version

router = new_router()

EXECUTIONS: Final = 200
"""Failed calls that the page of failures lists."""
ROWS: Final = 50
"""Rows of a page of the history."""
DONE: Final = {
    "set": "Done: the percentage is in force.",
    "plan": "Done: the plan has moved.",
    "rollback": "Rolled back: V1 gets every call.",
    "rollback_unwritten": "Rolled back here: V1 gets every call of this machine. In force here, not yet written.",
    "reload": "Done: the workers have the code that is on disk.",
    "reload_previous": "Done: the workers have the code from before the last reload.",
}
"""Sentences by the code that a redirect carries; no text of an address is ever shown."""


async def live_page(
    request: Request,
    visitor: Visitor,
    page: str,
    *,
    problem: str | None = None,
    status: int = 200,
    **more: Any,
) -> Response:
    """Shows a page with a live region."""
    services: Services = request.app.state.services
    console = console_of(request)
    sample = await console.hub.sample(services)
    return console.renderer.page(
        request,
        page,
        visitor=visitor,
        audience=audience_of(request, visitor, page),
        done=DONE.get(request.query_params.get("done", "")) if problem is None else None,
        problem=problem,
        status=status,
        **context_of(sample),
        **more,
    )


@router.get("")
async def overview(request: Request, visitor: Viewing) -> Response:
    """The rollout at one glance."""
    return await live_page(request, visitor, "overview")


@router.get("/")
async def overview_with_slash(request: Request, _: Viewing) -> Response:
    """The same page under the address that a person may type."""
    return RedirectResponse(root_path_of(request) + PREFIX, 303)


@router.get("/failures")
async def failures(
    request: Request,
    visitor: Viewing,
    services: Running,
    code: Annotated[Text | None, Query(max_length=64)] = None,
    version: Version | None = None,
) -> Response:
    """Failed calls by code and version, down to single executions."""
    shows_detail = visitor.principal.may(Scope.ADMIN)
    asked = FailuresAsked(code=code, version=version, limit=EXECUTIONS)
    found = whole_failures((await services.machine.ask(FAILURES, asked)).all).newest[:EXECUTIONS]
    return await live_page(
        request,
        visitor,
        "failures",
        code=code,
        version=version,
        failures=[failure_view(one, shows_detail=shows_detail) for one in found],
        shows_detail=shows_detail,
        why_no_trace=why_no_trace(services),
    )


def why_no_trace(services: Services) -> str:
    """The reason for which a call has no spans."""
    if services.tracing.exports:
        return "it was not sampled (OTEL_TRACES_SAMPLER_ARG)"
    return "no collector is set (OTEL_EXPORTER_OTLP_ENDPOINT)"


@router.get("/pools")
async def pools(request: Request, visitor: Viewing) -> Response:
    """The workers of both pools."""
    return await pools_page(request, visitor)


async def pools_page(request: Request, visitor: Visitor, problem: str | None = None, status: int = 200) -> Response:
    """Shows both pools, and what V2 changes against V1."""
    services: Services = request.app.state.services
    diff = difference_view(await pools_difference(services)) if Version.V1 in services.pools else None
    return await live_page(request, visitor, "pools", problem=problem, status=status, diff=diff)


@router.get("/history")
async def history(
    request: Request,
    visitor: Viewing,
    services: Running,
    before: Annotated[int | None, Query(ge=1, le=MAX_REVISION)] = None,
    verdicts_before: Annotated[int | None, Query(ge=1, le=MAX_KEY)] = None,
) -> Response:
    """Every revision of the flag, and every verdict with its evidence."""
    problem = None
    try:
        found = await services.flag.history(limit=ROWS + 1, before=before)
        verdicts = await services.ramp.decisions(limit=ROWS + 1, before=verdicts_before)
    except StoreUnavailable:
        found, verdicts = [services.flag.current], []
        problem = "The database does not answer: this is the revision in force here, and nothing else."
    return console_of(request).renderer.page(
        request,
        "history",
        visitor=visitor,
        problem=problem,
        revisions=[revision_view(one) for one in found[:ROWS]],
        next_revision=found[ROWS - 1].revision if len(found) > ROWS else None,
        decisions=[decision_view(one, visitor.principal) for one in verdicts[:ROWS]],
        next_decision=verdicts[ROWS - 1].key if len(verdicts) > ROWS else None,
    )


@router.get("/migration")
async def migration(request: Request, visitor: Viewing, services: Running) -> Response:
    """The phase of the migration, its checklist, and the report of the newest validation."""
    view, report = None, None
    try:
        view = await migration_view(services)
        newest = await services.migration.store.latest()
        if newest is not None:
            report = report_of(newest, await services.migration.store.before(newest.key))
    except StoreUnavailable:
        pass  # the page says so
    return console_of(request).renderer.page(
        request,
        "migration",
        visitor=visitor,
        migration=view,
        report=report,
        phases=list(Phase),
        missing="The database does not answer, so the evidence of the checklist cannot be read.",
    )


@router.get("/shadow")
async def shadow(request: Request, visitor: Viewing, services: Running) -> Response:
    """Differences between V1's outputs and V2's, by field, with examples side by side."""
    return console_of(request).renderer.page(
        request,
        "shadow",
        visitor=visitor,
        shadow=await show_shadow(services, visitor.principal),
        shows_detail=visitor.principal.may(Scope.ADMIN),
    )


@router.get("/rollback")
async def rollback(request: Request, visitor: Viewing, services: Running) -> Response:
    """The form that confirms a rollback. It needs neither the database nor a script."""
    with_scope(visitor, Scope.OPERATE)
    require_v1(services)
    return console_of(request).renderer.page(request, "rollback", visitor=visitor)


# --- live


@router.get("/live")
async def live(request: Request, visitor: Viewing, services: Running, page: str) -> Response:
    """The stream of a live page's region."""
    if page not in LIVE_PAGES:
        raise Problem("not_found", "There is no such live page.")
    access, audience = console_of(request).access, audience_of(request, visitor, page)

    def is_in() -> bool:
        """Looks at the login again: it may be over, its key revoked, or its rights may be others."""
        found = access.find(request)
        return found is not None and audience_of(request, found, page) == audience

    frames = console_of(request).hub.frames(audience, services, is_in)
    try:
        first = await anext(frames)
    except TooManyViewers:
        raise Problem("pool_overloaded", "Too many pages are live.", retry_after_s=5.0) from None
    return StreamingResponse(_all(first, frames), media_type="text/event-stream")


async def _all(first: bytes, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for frame in frames:
        yield frame


# --- login


@router.get("/login")
async def login_form(request: Request, next: Annotated[str, Query(max_length=512)] = "") -> Response:  # noqa: A002
    """The login, unless the visitor is known already."""
    if visitor_or_none(request) is not None:
        return RedirectResponse(root_path_of(request) + PREFIX, 303)
    return _login_page(request, _own_path(request, next))


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Takes a key and gives a cookie."""
    check_origin(request.headers)
    form = await read_form(request)
    target = _own_path(request, form.get("next", ""))
    try:
        cookie = console_of(request).access.log_in(request, form.get("key", "").strip())
    except Problem as problem:
        return _login_page(request, target, problem.detail, 429, {"retry-after": problem.headers()["retry-after"]})
    if cookie is None:
        return _login_page(request, target, "This key is not known here, or may not look at the console.", 403)
    answer = RedirectResponse(target or root_path_of(request) + PREFIX, 303)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=LIFETIME_S,
        path=root_path_of(request) + PREFIX,
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """Ends the login in this browser."""
    check_origin(request.headers)
    answer = RedirectResponse(f"{root_path_of(request)}{PREFIX}/login", 303)
    answer.delete_cookie(COOKIE, path=root_path_of(request) + PREFIX, httponly=True, samesite="strict")
    return answer


def _login_page(
    request: Request, target: str, problem: str | None = None, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return console_of(request).renderer.page(
        request, "login", next=target, problem=problem, status=status, headers=headers
    )


def _own_path(request: Request, path: str) -> str:
    """Returns a path of this console, and nothing for any other address."""
    root = f"{root_path_of(request)}{PREFIX}/"
    is_own = path.startswith(root) and path.isprintable() and "\\" not in path and ".." not in path
    return path if is_own else ""
