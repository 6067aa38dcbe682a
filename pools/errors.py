"""Everything that can go wrong with a call in a pool: one flat family for both engines, each with its code.

An error says what happened to the call, never what HTTP makes of it: `app.problems` maps a code to a status.
"""

from poolshift.worker.errors import (
    Category,
    ExecutionError,
    InvalidInputs,
    InvalidOutputs,
    LMError,
    LMNotConfigured,
    LoadFailed,
    MalformedInputs,
    ProgramError,
)

__all__ = [
    "Category",
    "CheckoutTimeout",
    "CodeOutdated",
    "ExecutionError",
    "ExecutionTimeout",
    "InvalidInputs",
    "InvalidOutputs",
    "LMError",
    "LMNotConfigured",
    "LoadFailed",
    "LoadTimeout",
    "MalformedInputs",
    "PoolClosed",
    "PoolOverloaded",
    "Preempted",
    "ProgramError",
    "ProgramQuarantined",
    "SpawnFailed",
    "Withdrawn",
    "WorkerCrashed",
    "WorkerFull",
    "WorkerLost",
]


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


class LoadTimeout(ExecutionError):
    """The program was not loaded in time; its worker was killed."""

    code = "load_timeout"
    category = "program"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, started=False)


class WorkerCrashed(ExecutionError):
    """The worker died under this call; `exit_cause` says how, `is_ours` that the program did not do it.

    `blamed` is the key of an earlier program, if that had left the worker in a state that is not for another.
    `is_counted` says that the program is not to be quarantined for this death: another call's error counts it already,
    or nobody knows which of several calls was the cause. Then the call `is_suspected`, as all of them are.
    """

    code = "worker_crashed"
    category = "communication"

    def __init__(
        self,
        detail: str,
        *,
        exit_cause: str,
        is_ours: bool = False,
        blamed: str | None = None,
        is_counted: bool = False,
        is_suspected: bool = False,
    ) -> None:
        super().__init__(detail)
        self.is_counted = is_counted
        self.is_suspected = is_suspected
        self.blamed = blamed
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


class Preempted(Exception):
    """A call on an idle worker ended early, because a real call needed the worker; never seen by a client."""


class WorkerLost(Exception):
    """A worker was dead before it was given the call, so another is given it; never seen by a client."""


class WorkerFull(Exception):
    """A worker would have to drop programs that it has loaded for one that no call waits for."""


class CodeOutdated(Exception):
    """The workers of a pool have other code than the disk; `on_disk` and `of_workers` are the two revisions."""

    def __init__(self, *, on_disk: str, of_workers: str) -> None:
        super().__init__(f"the code on disk is {on_disk}, the workers have {of_workers}")
        self.on_disk = on_disk
        self.of_workers = of_workers


class NoPreviousCode(Exception):
    """A pool keeps no code from before a reload."""

    def __init__(self, detail: str = "no code from before a reload is kept") -> None:
        super().__init__(detail)


class SpawnFailed(Exception):
    """A worker process could not be started."""
