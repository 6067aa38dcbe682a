"""A class for each error code of the service, and the way from a problem response to its error.

`docs/errors.md` says what a caller should do about each code.
"""

from typing import Any

import msgspec

from poolshift.client.errors import PoolshiftError


class InvalidRequest(PoolshiftError):
    """The body or a parameter is malformed; `detail` says where."""

    code = "invalid_request"
    status = 422
    category = "request"


class PayloadTooLarge(PoolshiftError):
    """The request's body is larger than the service takes."""

    code = "payload_too_large"
    status = 413
    category = "request"


class Unauthorized(PoolshiftError):
    """No API key, or an unknown one."""

    code = "unauthorized"
    status = 401
    category = "request"


class Forbidden(PoolshiftError):
    """The API key lacks the scope for this call."""

    code = "forbidden"
    status = 403
    category = "request"


class ForbiddenHost(PoolshiftError):
    """The service is not called by a name that it accepts."""

    code = "forbidden_host"
    status = 403
    category = "request"


class NotFound(PoolshiftError):
    """The service has nothing under this path."""

    code = "not_found"
    status = 404
    category = "request"


class MethodNotAllowed(PoolshiftError):
    """The path takes other methods only."""

    code = "method_not_allowed"
    status = 405
    category = "request"


class StaleRevision(PoolshiftError):
    """The change was meant for another revision; `extensions` has the current one."""

    code = "stale_revision"
    status = 412
    category = "request"


class InvalidPlan(PoolshiftError):
    """The plan makes no sense; `detail` says where."""

    code = "invalid_plan"
    status = 422
    category = "request"


class PlanConflict(PoolshiftError):
    """The plan's state does not allow this call."""

    code = "plan_conflict"
    status = 409
    category = "request"


class RollbackImpossible(PoolshiftError):
    """There is nothing to go back to: no V1, no code from before a reload, or no promotion of a definition."""

    code = "rollback_impossible"
    status = 409
    category = "request"


class ProgramNotFound(PoolshiftError):
    """No such program, neither in the session nor among the global ones."""

    code = "program_not_found"
    status = 404
    category = "session"


class SessionNotFound(PoolshiftError):
    """No such session: never seen, ended or expired."""

    code = "session_not_found"
    status = 404
    category = "session"


class SessionEnded(PoolshiftError):
    """A session that held programs or a language model of its own has ended: global programs would answer."""

    code = "session_ended"
    status = 410
    category = "session"


class ExecutionNotFound(PoolshiftError):
    """No such job: never started, or no longer kept."""

    code = "execution_not_found"
    status = 404
    category = "session"


class ProgramExists(PoolshiftError):
    """The program's id is taken."""

    code = "program_exists"
    status = 409
    category = "session"


class IncompatibleDefinition(PoolshiftError):
    """V2's own definition does not take V1's calls; `extensions["field"]` is in the way."""

    code = "incompatible_definition"
    status = 409
    category = "program"


class InvalidInputs(PoolshiftError):
    """The inputs do not fit the program's signature; the program did not run."""

    code = "invalid_inputs"
    status = 422
    category = "program"


class InvalidOutputs(PoolshiftError):
    """The program's outputs do not fit its signature."""

    code = "invalid_outputs"
    status = 500
    category = "program"


class ProgramError(PoolshiftError):
    """The program raised an error."""

    code = "program_error"
    status = 500
    category = "program"


class LMNotConfigured(PoolshiftError):
    """The program needs a language model, and none is configured."""

    code = "lm_not_configured"
    status = 409
    category = "upstream"


class LMError(PoolshiftError):
    """The language model failed."""

    code = "lm_error"
    status = 502
    category = "upstream"


class PoolOverloaded(PoolshiftError):
    """The pool is overloaded and has refused the call at once."""

    code = "pool_overloaded"
    status = 503
    category = "resource"


class CheckoutTimeout(PoolshiftError):
    """No worker came free in time."""

    code = "checkout_timeout"
    status = 503
    category = "timeout"


class ExecutionTimeout(PoolshiftError):
    """The deadline passed while the program ran."""

    code = "execution_timeout"
    status = 504
    category = "timeout"


class LoadFailed(PoolshiftError):
    """The program's module or its `setup()` failed."""

    code = "load_failed"
    status = 500
    category = "program"


class LoadTimeout(PoolshiftError):
    """The program took too long to load."""

    code = "load_timeout"
    status = 504
    category = "program"


class CodeOutdated(PoolshiftError):
    """The pool's workers have other code than the disk: reload the pool."""

    code = "code_outdated"
    status = 409
    category = "program"


class WorkerCrashed(PoolshiftError):
    """The worker died under this call."""

    code = "worker_crashed"
    status = 502
    category = "communication"


class ProgramQuarantined(PoolshiftError):
    """The program keeps killing workers and is stopped for a while."""

    code = "program_quarantined"
    status = 503
    category = "program"


class PoolClosed(PoolshiftError):
    """The service is shutting down."""

    code = "pool_closed"
    status = 503
    category = "resource"


class StoreUnavailable(PoolshiftError):
    """The service's database does not answer."""

    code = "store_unavailable"
    status = 503
    category = "resource"


class QuotaExceeded(PoolshiftError):
    """A quota is used up; `extensions` names it."""

    code = "quota_exceeded"
    status = 429
    category = "resource"


class IdempotencyConflict(PoolshiftError):
    """The idempotency key belongs to another call; or its call still runs, or was lost with its replica."""

    code = "idempotency_conflict"
    status = 409
    category = "request"


class InternalError(PoolshiftError):
    """The service failed; its log says how."""

    code = "internal_error"
    status = 500
    category = "resource"


CLASSES = {kind.code: kind for kind in PoolshiftError.__subclasses__() if kind.__module__ == __name__}
"""The class of each code."""
_COMMON = frozenset(
    "type title status detail code category pool_version execution_id retry_safe".split(),
)


def read_problem(status: int, content: bytes, retry_after: str | None = None) -> PoolshiftError | None:
    """Makes the error of a problem response; None if the content is not a problem."""
    try:
        return problem_error(msgspec.json.decode(content), status, retry_after)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def problem_error(problem: Any, status: int | None = None, retry_after: str | None = None) -> PoolshiftError | None:
    """Makes the error of a decoded problem; None if `problem` is not one."""
    code = problem.get("code") if isinstance(problem, dict) else None
    if not isinstance(code, str):
        return None
    error = CLASSES.get(code, PoolshiftError)(str(problem.get("detail", code)))
    error.code = code
    error.status = problem["status"] if isinstance(problem.get("status"), int) else status
    error.category = _text(problem.get("category"))
    error.retry_safe = problem.get("retry_safe") is True
    error.retry_after = _seconds(retry_after)
    error.execution_id = _text(problem.get("execution_id"))
    error.pool_version = _text(problem.get("pool_version"))
    error.extensions = {name: value for name, value in problem.items() if name not in _COMMON}
    return error


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(header: str | None) -> float | None:
    """Reads a Retry-After header. The service never sends a date, and the clock of a proxy that does may be wrong."""
    if header is None or not (header.isascii() and header.isdecimal()):
        return None
    return float(header[:9])
