"""What can go wrong with a call in a pool: one flat family for both engines, each with its code of the taxonomy.

An error says what happened to the call, never what HTTP makes of it: the table from a code to a status is in `app`.
"""

from typing import ClassVar, Literal

from pools.lm import LMUsage

Category = Literal["request", "session", "program", "upstream", "resource", "timeout", "communication"]


class ExecutionError(Exception):
    """A call that did not end with outputs.

    `started` tells whether the program may have begun to run: only where it surely did not is a retry safe for a
    program that is not idempotent.
    """

    code: ClassVar[str]
    category: ClassVar[Category]

    def __init__(self, detail: str, *, started: bool = True, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.started = started
        self.retry_after_s = retry_after_s
        self.run_s = 0.0
        """How long a worker was at it, in seconds; 0 where none was."""
        self.usage: LMUsage | None = None
        """The tokens that it took all the same."""


class MalformedInputs(ExecutionError):
    """The inputs are not JSON (found by the worker, which is the first to parse them)."""

    code = "invalid_request"
    category = "request"


class InvalidInputs(ExecutionError):
    """The inputs do not fit the signature; `field` names where."""

    code = "invalid_inputs"
    category = "program"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail, started=False)
        self.field = field


class InvalidOutputs(ExecutionError):
    """What the program returned does not fit the signature; `field` names where."""

    code = "invalid_outputs"
    category = "program"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class ProgramError(ExecutionError):
    """The program raised."""

    code = "program_error"
    category = "program"


class LMNotConfigured(ExecutionError):
    """A DSPy program was called and neither its session nor the service has an LM."""

    code = "lm_not_configured"
    category = "upstream"


class LMError(ExecutionError):
    """The LM's endpoint failed, refused, or could not be made sense of."""

    code = "lm_error"
    category = "upstream"


class PoolOverloaded(ExecutionError):
    """Shed at once: the queue is full, or the deadline cannot be met."""

    code = "pool_overloaded"
    category = "resource"

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail, started=False, retry_after_s=retry_after_s)


class CheckoutTimeout(ExecutionError):
    """No worker came free in time; the program did not start."""

    code = "checkout_timeout"
    category = "timeout"

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail, started=False, retry_after_s=retry_after_s)


class ExecutionTimeout(ExecutionError):
    """The deadline passed while the program ran; its worker was killed."""

    code = "execution_timeout"
    category = "timeout"


class WorkerCrashed(ExecutionError):
    """The worker died under this call; `exit_cause` says how, `is_ours` that the program did not do it."""

    code = "worker_crashed"
    category = "communication"

    def __init__(self, detail: str, *, exit_cause: str, is_ours: bool = False) -> None:
        super().__init__(detail)
        self.exit_cause = exit_cause
        self.is_ours = is_ours


class ProgramQuarantined(ExecutionError):
    """This program keeps killing workers and is stopped for a while."""

    code = "program_quarantined"
    category = "program"

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail, started=False, retry_after_s=retry_after_s)


class PoolClosed(ExecutionError):
    """The pool is shutting down."""

    code = "pool_closed"
    category = "resource"

    def __init__(self, detail: str = "the pool is shutting down", *, started: bool = False) -> None:
        super().__init__(detail, started=started)


class Withdrawn(Exception):
    """A call was taken back by the router, to be given to another pool; never seen by a client."""


class WorkerLost(Exception):
    """A worker was dead before it was given the call, so another is given it; never seen by a client."""


class SpawnFailed(Exception):
    """A worker process could not be started."""
