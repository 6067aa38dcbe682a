"""The errors of a call: those of the service, and those of a call that the service has not answered."""

from collections.abc import Mapping
from typing import Any

TRANSIENT_STATUSES = frozenset({502, 503, 504})
TRANSIENT_WITH_A_PAUSE = frozenset({409, 429})
"""Statuses of errors that pass if the service says when."""


class PoolshiftError(Exception):
    """A call that failed. `poolshift.client.problems` has a subclass for each code of the service.

    A code that this version of the client does not know has no class: it raises `PoolshiftError` itself.
    """

    code: str = "error"
    status: int | None = None
    """The HTTP status; None if the service has not answered."""
    category: str | None = None

    def __init__(self, detail: str, *, retry_safe: bool = False, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_safe = retry_safe
        """True if the program surely did not start, or may be run twice."""
        self.retry_after = retry_after
        """Seconds that the service asks to wait before another attempt."""
        self.execution_id: str | None = None
        self.pool_version: str | None = None
        self.extensions: Mapping[str, Any] = {}
        """Members that only this problem has, such as `field`, `quota` or `errors`."""
        self.attempts = 1
        """Attempts that the client has made."""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def is_transient(self) -> bool:
        """True if the same call may succeed a little later."""
        may_pass = self.retry_after is not None and self.status in TRANSIENT_WITH_A_PAUSE
        return may_pass or self.status in TRANSIENT_STATUSES


class NoAnswer(PoolshiftError):
    """A call without an answer of the service."""


class ServiceUnreachable(NoAnswer):
    """No connection: the request surely did not arrive."""

    code = "unreachable"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_safe=True)

    @property
    def is_transient(self) -> bool:
        return True


class AnswerLost(NoAnswer):
    """The connection broke before the answer was complete. The program may have run."""

    code = "answer_lost"

    @property
    def is_transient(self) -> bool:
        return True


class AnswerTimeout(NoAnswer):
    """No complete answer in time. The program may have run, or run on."""

    code = "answer_timeout"


class UnexpectedAnswer(NoAnswer):
    """An answer that is not one of Poolshift's: a proxy's page, or another service's."""

    code = "unexpected_answer"

    def __init__(self, detail: str, *, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


class JobCancelled(PoolshiftError):
    """A job without a result, since somebody has cancelled it."""

    code = "job_cancelled"


class JobInterrupted(PoolshiftError):
    """A job without a result, since its replica has ended. Its program may have run in part."""

    code = "job_interrupted"


class JobNotOver(PoolshiftError):
    """A job that was not over within the time given to `wait`. The job goes on."""

    code = "job_not_over"
