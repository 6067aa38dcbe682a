"""Errors over HTTP: the table from a code to its status, and the problem (RFC 9457) that every error becomes."""

import http
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from pools.errors import (
    Category,
    CodeOutdated,
    ExecutionError,
    InvalidInputs,
    InvalidOutputs,
    SpawnFailed,
    WorkerCrashed,
)
from routing.errors import (
    InvalidPlan,
    JobNotFound,
    NoPlan,
    PlanConflict,
    ProgramExists,
    ProgramNotFound,
    QuotaExceeded,
    SessionNotFound,
    StaleProgram,
    StaleRevision,
    StoreUnavailable,
)
from routing.versions import Version

CONTENT_TYPE = "application/problem+json"
_log = structlog.stdlib.get_logger("poolshift.http")


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the taxonomy."""

    status: int
    category: Category
    title: str


KINDS: Mapping[str, Kind] = {
    "invalid_request": Kind(422, "request", "The request is malformed"),
    "payload_too_large": Kind(413, "request", "The request's body is too large"),
    "unauthorized": Kind(401, "request", "An API key is needed"),
    "forbidden": Kind(403, "request", "This API key does not allow that"),
    "forbidden_host": Kind(403, "request", "This host or origin is not allowed"),
    "not_found": Kind(404, "request", "There is nothing here"),
    "method_not_allowed": Kind(405, "request", "This cannot be done here"),
    "stale_revision": Kind(412, "request", "The change was meant for another revision"),
    "invalid_plan": Kind(422, "request", "The plan makes no sense"),
    "plan_conflict": Kind(409, "request", "The plan's state does not allow that"),
    "rollback_impossible": Kind(409, "request", "There is nothing to roll back to"),
    "program_not_found": Kind(404, "session", "No such program"),
    "session_not_found": Kind(404, "session", "No such session"),
    "execution_not_found": Kind(404, "session", "No such execution"),
    "program_exists": Kind(409, "session", "The program's id is taken"),
    "invalid_inputs": Kind(422, "program", "The inputs do not fit the program's signature"),
    "invalid_outputs": Kind(500, "program", "The outputs do not fit the program's signature"),
    "program_error": Kind(500, "program", "The program raised an error"),
    "lm_not_configured": Kind(409, "upstream", "No language model is configured"),
    "lm_error": Kind(502, "upstream", "The language model failed"),
    "pool_overloaded": Kind(503, "resource", "The pool is overloaded"),
    "checkout_timeout": Kind(503, "timeout", "No worker came free in time"),
    "execution_timeout": Kind(504, "timeout", "The deadline passed"),
    "load_failed": Kind(500, "program", "The program could not be loaded"),
    "load_timeout": Kind(504, "program", "The program took too long to load"),
    "code_outdated": Kind(409, "program", "The pool's workers have other code"),
    "worker_crashed": Kind(502, "communication", "The worker died"),
    "program_quarantined": Kind(503, "program", "The program is in quarantine"),
    "pool_closed": Kind(503, "resource", "The service is shutting down"),
    "store_unavailable": Kind(503, "resource", "The database does not answer"),
    "quota_exceeded": Kind(429, "resource", "A quota is used up"),
    "internal_error": Kind(500, "resource", "The service failed"),
}


@dataclass(slots=True)
class Problem(Exception):
    """An error with its answer. Every other error is converted into one."""

    code: str
    detail: str
    retry_safe: bool = True
    retry_after_s: float | None = None
    extensions: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """The row of the taxonomy."""
        return KINDS[self.code]

    def body(self, *, pool_version: str | None = None, execution_id: str | None = None) -> bytes:
        """Encodes the problem as JSON."""
        kind = self.kind
        return msgspec.json.encode(
            {
                "type": f"urn:poolshift:problem:{self.code}",
                "title": kind.title,
                "status": kind.status,
                "detail": self.detail,
                "code": self.code,
                "category": kind.category,
                "pool_version": pool_version,
                "execution_id": execution_id,
                "retry_safe": self.retry_safe,
                **self.extensions,
            }
        )

    def headers(self) -> dict[str, str]:
        """The headers that go with the body."""
        headers = {"content-type": CONTENT_TYPE}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after_s))
        if self.kind.status == http.HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        if self.code == "payload_too_large":
            headers["connection"] = "close"  # the rest of the body is not worth reading
        return headers

    def response(self) -> Response:
        """Makes the response of an ordinary endpoint."""
        return Response(self.body(), self.kind.status, self.headers())


@singledispatch
def problem_of(error: Exception) -> Problem:
    """Converts an error. An unforeseen one is logged and becomes `internal_error`, without its message.

    `retry_safe` is true only if the program surely did not start. The lane also sets it for idempotent programs.
    """
    _log.error("unforeseen error", exc_info=error)
    return internal_error()


def internal_error() -> Problem:
    """Makes the problem for an unforeseen failure; the log has its cause."""
    return Problem("internal_error", "the service failed; its log says how", retry_safe=False)


@problem_of.register
def _(error: Problem) -> Problem:
    return error


@problem_of.register
def _(error: ExecutionError) -> Problem:
    problem = Problem(error.code, error.detail, not error.started, error.retry_after_s)
    if isinstance(error, InvalidInputs | InvalidOutputs) and error.field is not None:
        problem.extensions["field"] = error.field
    if isinstance(error, WorkerCrashed):
        problem.extensions["exit_cause"] = error.exit_cause
    return problem


@problem_of.register
def _(error: RequestValidationError) -> Problem:
    errors = [{"at": _place(one["loc"]), "message": one["msg"].removeprefix("Value error, ")} for one in error.errors()]
    detail = "; ".join(f"{one['at']}: {one['message']}" for one in errors)
    return Problem("invalid_request", detail, extensions={"errors": errors})


@problem_of.register
def _(error: ProgramNotFound) -> Problem:
    return Problem("program_not_found", f"no program {error.args[0]!r}")


@problem_of.register
def _(error: SessionNotFound) -> Problem:
    return Problem("session_not_found", f"no session {error.args[0]!r}")


@problem_of.register
def _(error: JobNotFound) -> Problem:
    return Problem("execution_not_found", f"no execution {error.args[0]!r} is kept")


@problem_of.register
def _(error: ProgramExists) -> Problem:
    return Problem("program_exists", f"the id {error.args[0]!r} is taken")


@problem_of.register
def _(error: QuotaExceeded) -> Problem:
    return Problem("quota_exceeded", str(error), extensions={"quota": error.quota})


@problem_of.register
def _(error: StaleRevision) -> Problem:
    return Problem("stale_revision", str(error), extensions={"revision": error.current.revision})


@problem_of.register
def _(error: StaleProgram) -> Problem:
    return Problem("stale_revision", str(error), extensions={"revision": error.revision})


@problem_of.register
def _(error: InvalidPlan) -> Problem:
    return Problem("invalid_plan", str(error))


@problem_of.register(PlanConflict)
@problem_of.register(NoPlan)
def _(error: PlanConflict | NoPlan) -> Problem:
    return Problem("plan_conflict", str(error))


@problem_of.register
def _(error: StoreUnavailable) -> Problem:
    return Problem("store_unavailable", str(error), retry_after_s=1.0)


@problem_of.register
def _(error: CodeOutdated) -> Problem:
    detail = f"{error}: `poolshift pools reload` gives the workers the code on disk"
    revisions = {"on_disk": error.on_disk, "of_workers": error.of_workers}
    return Problem("code_outdated", detail, extensions=revisions)


@problem_of.register
def _(error: SpawnFailed) -> Problem:
    return Problem("worker_crashed", str(error), retry_after_s=1.0, extensions={"exit_cause": "not started"})


@problem_of.register
def _(error: HTTPException) -> Problem:
    codes = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}
    code = codes.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    return Problem(code, str(error.detail))


def install(app: FastAPI) -> None:
    """Makes every error of the ordinary endpoints a problem response."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = _unread(request, error) or error
        return problem_of(error).response()

    foreseen = (kind for kind in problem_of.registry if issubclass(kind, Exception))
    for kind in (*foreseen, Exception):  # what only `Exception` covers, Starlette logs and raises again
        app.add_exception_handler(kind, answer)


def _unread(request: Request, error: RequestValidationError) -> Problem | None:
    """Explains that a body was not read as JSON, if that is the fault of the request.

    A browser sends other content types across sites without asking, so these are refused rather than tried.
    """
    if not isinstance(error.body, bytes):
        return None
    given = request.headers.get("content-type")
    found = "is missing" if not given else f"is {given!r}"
    message = f"the header content-type {found}; it must be application/json"
    return Problem("invalid_request", message, extensions={"errors": [{"at": "content-type", "message": message}]})


def _place(location: tuple[int | str, ...]) -> str:
    # A body's unknown member may be called by half a surrogate pair, which is no UTF-8.
    return ".".join(str(part).encode(errors="backslashreplace").decode() for part in location)


class ProblemView(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    category: Category
    pool_version: Version | None
    execution_id: str | None
    retry_safe: bool
