"""The console's kind of route: an error becomes a page, and a request without a visitor goes to the login."""

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from app.assets import root_path_of
from app.console.access import LoginNeeded, Visitor
from app.console.headers import PREFIX
from app.console.state import Console
from app.problems import Problem, problem_of

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ConsoleRoute(APIRoute):
    """Answers errors with pages."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except LoginNeeded:
                return login_answer(request)
            except Exception as error:
                problem = _malformed() if isinstance(error, RequestValidationError) else problem_of(error)
                return problem_page(request, problem)

        return answer


def new_router() -> APIRouter:
    """Makes a router for pages, which are not part of the API."""
    return APIRouter(prefix=PREFIX, route_class=ConsoleRoute, include_in_schema=False)


def console_of(request: Request) -> Console:
    """The console of the running service."""
    console: Console = request.app.state.console
    return console


def login_answer(request: Request) -> Response:
    """Sends a reader to the login; anything that a script asks for is refused."""
    if request.method != "GET" or "text/event-stream" in request.headers.get("accept", ""):
        return problem_page(request, Problem("unauthorized", "Your login is over. Sign in again."))
    path = request.url.path
    target = f"?next={quote(path)}" if path.startswith(f"{root_path_of(request)}{PREFIX}/") else ""
    return RedirectResponse(f"{root_path_of(request)}{PREFIX}/login{target}", 303)


def problem_page(request: Request, problem: Problem, back: str = "") -> Response:
    """Shows an error as a page."""
    headers = problem.headers()
    headers.pop("content-type")
    headers.pop("www-authenticate", None)  # the browser would ask for a password in a window of its own
    return console_of(request).renderer.page(
        request,
        "message",
        visitor=visitor_or_none(request),
        title=problem.kind.title,
        message=problem.detail,
        back=back,
        status=problem.kind.status,
        headers=headers,
    )


def visitor_or_none(request: Request) -> Visitor | None:
    """The visitor, if there is one."""
    return console_of(request).access.find(request)


def _malformed() -> Problem:
    return Problem("invalid_request", "The address of this page is malformed.")
