"""The interface of a worker and of a spawner: what engines and supervisors need, whatever runs the programs.

`pools.process` implements it with processes of this machine, `pools.ray` with processes of the nodes of a cluster.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pools.calls import Call, Program, Result
from pools.errors import ExecutionError
from pools.process.exits import Exit, ExitCause
from pools.process.stats import ProcessStats
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.describe import Description

Loads = Callable[[Definition], Awaitable[None]]
"""Loads a definition as its first call would, in a worker of its own, which is in no pool. Raises EntrypointError if it
cannot be loaded, SpawnFailed if no worker could be started for it."""
TryOut = Callable[[Loads, Loads], Awaitable[None]]
"""Tries new code before any worker has it: gets what loads definitions with the new code, and with the present code.
Raises SpawnFailed to refuse the new code."""


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """The reason for which a worker is to load a program."""

    execution_id: str | None = None
    """The call that waits for it; None if none does."""
    traceparent: str | None = None
    """The call's, for the ids of what the program prints."""
    limit_s: float | None = None
    """A shorter time than the pool's `load_timeout_s`, in seconds."""


class Worker(Protocol):
    """A worker that is ready, and runs calls until it has exited: one at a time, or beside each other."""

    pid: int

    @property
    def node(self) -> str | None:
        """The node of a cluster that the worker is on; None is this machine."""
        ...

    started_at: float
    """By `time.time`."""
    exited: asyncio.Future[Exit]
    """Done once the worker is dead."""
    revision: str
    """The revision of the programs' code that the worker has."""
    left_by: Program | None
    """The program whose call has left the worker in a state that is not for another; then it is to be replaced."""

    @property
    def calls(self) -> Sequence[Call]:
        """The running calls, the oldest first."""
        ...

    def run(self, call: Call, on_end: Callable[[Result | Exception], None]) -> float:
        """Sends the call; `on_end` is called once, with the result or one of `pools.errors`.

        Returns the time of the loop by which it must end. The worker is idle, or runs nothing but calls that can run
        beside this one.

        Raises:
            InvalidInputs: the inputs are over the frame's limit; nothing was sent.
            WorkerLost: the worker is dead; nothing was sent.
        """

    @property
    def loading(self) -> Program | None:
        """The program that the worker loads by `load` at the moment."""
        ...

    def has_loaded(self, definition: Definition) -> bool:
        """Tells if a call of this definition runs at once, since the worker has loaded it."""
        ...

    def is_concurrent(self, definition: Definition) -> bool:
        """Tells if calls of this definition, which the worker has loaded, can run beside others on it."""
        ...

    def load(self, program: Program, order: LoadOrder, on_end: Callable[[ExecutionError | None], None]) -> None:
        """Has the worker load a program without running it; `on_end` is called once, with the failure if any.

        That is LoadFailed, LoadTimeout (after a kill at `due`) or WorkerCrashed.

        Raises:
            LoadFailed: the definition cannot be sent.
            WorkerFull: the worker would have to drop others for it, and no call waits for it, or others run.
            WorkerLost: the worker is dead.
        """

    def cancel(self, call: Call, cause: ExitCause) -> float | None:
        """Asks the worker to end one of many calls, of which `on_end` is told once the program runs no more.

        Returns the time of the loop by which it must have ended. None if nothing but the worker's death can end it:
        it has the worker for itself, or was cancelled before.
        """
        ...

    def ignores_cancellation(self, call: Call) -> bool:
        """Tells if a call that runs was asked to end, and has not although it could: no other blocks the worker."""
        ...

    def withdraw(self, call: Call) -> None:
        """Ends a running call with Withdrawn, and drops its answer. The caller cancels it, or kills the worker."""

    def kill(self, cause: ExitCause, reason: str | None = None) -> None:
        """Ends the worker whatever it does; `exited` is done when it is dead. Never raises.

        `reason` is the memory limit that it grew past, in words, if that is not the pool's.
        """

    def retire(self, cause: ExitCause) -> None:
        """Lets an idle worker exit, and kills it if it does not. Never raises."""

    @property
    def due(self) -> float:
        """The time of the loop by which a call must end or a program must have loaded; infinite if it is idle."""
        ...

    @property
    def load_due(self) -> float:
        """The time of the loop by which the program must have loaded that it loads without a call, or infinite."""
        ...

    def overdue(self, now: float) -> Sequence[Call]:
        """The calls that should have ended by `now`, a time of the loop."""
        ...

    def when_due_changes(self, listener: Callable[[], None]) -> None:
        """Calls `listener` when the program of its call is loaded, and its deadline counts from then on."""

    def when_ended(self, listener: Callable[[Exit], None]) -> None:
        """Calls `listener` once the worker is dead, before its call is answered; at once if it is dead already."""

    def when_left(self, listener: Callable[[], None]) -> None:
        """Calls `listener` when `left_by` is set, unless a program is being loaded."""

    def when_blocked(self, listener: Callable[[Program | None, float, bool], None]) -> None:
        """Calls `listener` if a call lets no other run beside it, with its program and the seconds so far.

        It is called again at the end of that, with True; the call may have ended before, and its program is None then.
        """

    def stats(self) -> ProcessStats | None:
        """Measures the worker, in any thread; None if it is gone or cannot be measured."""
        ...

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        """Calls `listener` with the resident memory in bytes, 0 if it is not known: at once, or when a node answers."""

    def log_ids(self) -> dict[str, str | None]:
        """The ids of the running calls, if any, for a log line."""
        ...


class WorkerSpawner(Protocol):
    """Starts the workers of one pool."""

    async def spawn(self) -> Worker:
        """Starts a worker and returns it when it is ready.

        Raises:
            SpawnFailed: it could not be started, or died at once.
        """
        ...

    async def measure(self, workers: Sequence[Worker]) -> list[ProcessStats | None]:
        """Measures the workers; None is one that is gone or cannot be measured."""
        ...

    @property
    def places(self) -> int | None:
        """The number of workers that there is room for; None if nothing but the pool's size limits it."""
        ...

    @property
    def start_failure(self) -> str | None:
        """The reason for which no worker can start that only the operator can repair; None if there is none."""
        ...

    def watch_places(self, listener: Callable[[], None]) -> None:
        """Calls `listener` each time that `places` or `start_failure` has changed."""

    async def check(self, definition: Definition) -> Signature | None:
        """Tries to load `definition` in a worker of its own, which is in no pool.

        Returns the derived signature, if the definition leaves its signature to the program.

        Raises:
            CodeOutdated: the pool's workers have other code than the disk.
            EntrypointError: it cannot be loaded, and why.
            PoolOverloaded: too many definitions are being checked.
            SpawnFailed: no worker could be started for it.
        """

    async def load(self, definition: Definition) -> None:
        """Loads `definition` as its first call would, with the code of the pool's workers (see `Loads`)."""

    async def describe(self) -> Description:
        """Tells the Python of the workers and the packages that they find.

        Raises:
            SpawnFailed: the interpreter cannot run workers, and why.
        """
        ...

    @property
    def revision(self) -> str | None:
        """The revision of the code that workers have which are started now; None before the first start."""
        ...

    @property
    def commit(self) -> str | None:
        """The git commit of that code, with `-dirty` if it differs; None if it is of no single one."""
        ...

    def watch_code(self, on_new_code: Callable[[], None]) -> None:
        """Calls `on_new_code` each time that the code on disk has changed and is settled."""

    async def renew(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        """Makes workers that are started from now on run the code that is on disk now, if `try_out` does not refuse it.

        There must be present code for `try_out` to be asked. `is_forced` takes code of which modules cannot be
        imported, but for those of `PRELOAD`.

        Raises:
            SpawnFailed: that is impossible, or refused; workers are started as before.
        """

    @property
    def previous_revision(self) -> str | None:
        """The revision of the code before the last renewal with other code; None if that code is not kept."""
        ...

    async def bring_back(self) -> None:
        """Makes workers that are started from now on run that code again, and keeps the present code in its place.

        Raises:
            NoPreviousCode: there is none.
            SpawnFailed: it cannot be started; workers are started as before.
        """

    async def aclose(self) -> None:
        """Ends every worker that is left."""
