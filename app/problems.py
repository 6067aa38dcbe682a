"""Errors over HTTP: the problem (RFC 9457) that every error becomes. `app.problem_kinds` has the table of codes."""

import http
import math
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from app.problem_kinds import KINDS, Kind
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
    FormerLMMissing,
    IdempotencyConflict,
    IncompatibleDefinition,
    InvalidPlan,
    JobNotFound,
    NoDeletion,
    NoOwnDefinition,
    NoPlan,
    NoProgramOfSession,
    NoRevision,
    NothingToDemote,
    NotTheOwner,
    PlanConflict,
    ProgramExists,
    ProgramNotFound,
    QuotaExceeded,
    SessionEnded,
    SessionNotFound,
    StaleProgram,
    StaleRevision,
    StoreUnavailable,
)
from routing.versions import Version

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "/problems/"
"""The `type` of a problem is a reference to its page, which the service itself serves (`app.api.problem_pages`)."""
MAX_ERRORS = 50
"""The misfits of a request that its answer lists."""
_log = structlog.stdlib.get_logger("poolshift.http")


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
        return msgspec.json.encode(self.members(pool_version=pool_version, execution_id=execution_id))

    def members(self, *, pool_version: str | None = None, execution_id: str | None = None) -> dict[str, Any]:
        """Returns the members of the problem."""
        kind = self.kind
        return {
            "type": TYPE_PREFIX + self.code,
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


def require_reason(word: str, reason: str | None) -> None:
    """Refuses a request that says `word` and not why. Raises Problem."""
    if (reason or "").strip():
        return
    message = f"`{word}` needs a reason"
    raise Problem(
        "invalid_request",
        f"body.reason: {message}",
        extensions={"errors": [{"at": "body.reason", "message": message}]},
    )


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
    found = error.errors()
    errors = [
        _malformed(one, error.body)
        if one["type"] == "json_invalid"
        else {"at": _place(one["loc"]), "message": one["msg"].removeprefix("Value error, ")}
        for one in found[:MAX_ERRORS]
    ]
    detail = "; ".join(f"{one['at']}: {one['message']}" for one in errors)
    if (more := len(found) - len(errors)) > 0:
        detail += f"; and {more} more"
    return Problem("invalid_request", detail, extensions={"errors": errors})


@problem_of.register
def _(error: ProgramNotFound) -> Problem:
    return Problem("program_not_found", f"no program {error.args[0]!r}")


@problem_of.register(NoOwnDefinition)
@problem_of.register(NoProgramOfSession)
@problem_of.register(NoRevision)
@problem_of.register(NoDeletion)
def _(error: NoOwnDefinition | NoProgramOfSession | NoRevision | NoDeletion) -> Problem:
    return Problem("program_not_found", error.reason)


@problem_of.register
def _(error: NotTheOwner) -> Problem:
    return Problem("forbidden", str(error))


@problem_of.register
def _(error: IncompatibleDefinition) -> Problem:
    return Problem("incompatible_definition", str(error), extensions={"field": error.field})


@problem_of.register
def _(error: SessionNotFound) -> Problem:
    return Problem("session_not_found", f"no session {error.args[0]!r}")


@problem_of.register
def _(error: SessionEnded) -> Problem:
    detail = f"{error}: create it again in the session, or take another one, else what is everyone's would answer"
    return Problem("session_ended", detail, extensions={"ended_at": error.ended_at})


@problem_of.register
def _(error: FormerLMMissing) -> Problem:
    return Problem("not_found", str(error))


@problem_of.register
def _(error: JobNotFound) -> Problem:
    return Problem("execution_not_found", f"no execution {error.args[0]!r} is kept")


@problem_of.register
def _(error: IdempotencyConflict) -> Problem:
    return Problem("idempotency_conflict", str(error), not error.is_lost, error.retry_after_s)


@problem_of.register
def _(error: ProgramExists) -> Problem:
    return Problem("program_exists", error.reason or f"the id {error.args[0]!r} is taken")


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
def _(error: NothingToDemote) -> Problem:
    return Problem("rollback_impossible", str(error))


@problem_of.register
def _(error: StoreUnavailable) -> Problem:
    return Problem("store_unavailable", str(error), retry_after_s=1.0)


@problem_of.register
def _(error: CodeOutdated) -> Problem:
    detail = f"{error}: `poolshift pools reload v1|v2` gives the workers the code on disk"
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


def _malformed(error: dict[str, Any], body: str) -> dict[str, str]:
    """Says where a body stops being JSON. FastAPI gives that as a member of the body whose name is a number."""
    _, position = error["loc"]
    line = body.count("\n", 0, position) + 1
    column = position - body.rfind("\n", 0, position)
    return {"at": "body", "message": f"not JSON at line {line}, column {column}: {error['ctx']['error']}"}


class ProblemView(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/worker_crashed",
                    "title": "The worker died",
                    "status": 502,
                    "detail": "the worker died while it ran the program: exit code 3",
                    "code": "worker_crashed",
                    "category": "communication",
                    "pool_version": "v2",
                    "execution_id": "63f3ad26d4119c0e8a1f27b05d6e43c2",
                    "retry_safe": False,
                    "exit_cause": "exit code 3",
                }
            ]
        },
    )

    type: str = Field(description="The path of a page that says what the code means and what to do")
    title: str = Field(description="The kind of thing that went wrong; for people, and may change")
    status: int = Field(description="The HTTP status, again")
    detail: str = Field(description="What went wrong this time; for people, and may change")
    code: str = Field(description="The kind of thing that went wrong, for programs; `GET /problems` lists all codes")
    category: Category = Field(description="The part that is at fault")
    pool_version: Version | None = Field(description="The version, of an execution; else null")
    execution_id: str | None = Field(description="The execution; null on other endpoints")
    retry_safe: bool = Field(
        description="True if the same request may be sent again without harm: the program surely did not start, or is "
        "declared `idempotent`"
    )
