"""The interface of a worker and of a spawner: what engines and supervisors need, whatever runs the programs.

`pools.process` implements it with processes of this machine, `pools.ray` with processes of the nodes of a cluster, and
`pools.testing` with objects that a test commands.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from pools.calls import Call, Program, Result
from pools.process.exits import Exit, ExitCause
from pools.process.stats import ProcessStats
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.describe import Description


class Worker(Protocol):
    """A worker that is ready, and runs one call at a time until it has exited."""

    pid: int

    @property
    def node(self) -> str | None:
        """The node of a cluster that the worker is on; None is this machine."""
        ...

    started_at: float
    """By `time.time`."""
    call: Call | None
    """The running call."""
    exited: asyncio.Future[Exit]
    """Done once the worker is dead."""
    revision: str
    """The revision of the programs' code that the worker has."""
    left_by: Program | None
    """The program whose call has left the worker in a state that is not for another; then it is to be replaced."""

    def run(self, call: Call, on_end: Callable[[Result | Exception], None]) -> None:
        """Sends the call. The worker must be idle; `on_end` is called once, with the result or one of `pools.errors`.

        Raises:
            InvalidInputs: the inputs are over the frame's limit; nothing was sent.
            WorkerLost: the worker is dead; nothing was sent.
        """

    def withdraw(self) -> None:
        """Ends the running call with Withdrawn, and drops its answer. The caller kills the worker."""

    def kill(self, cause: ExitCause, reason: str | None = None) -> None:
        """Ends the worker whatever it does; `exited` is done when it is dead. Never raises.

        `reason` is the memory limit that it grew past, in words, if that is not the pool's.
        """

    def retire(self, cause: ExitCause) -> None:
        """Lets an idle worker exit, and kills it if it does not. Never raises."""

    @property
    def can_be_lent(self) -> bool:
        """Tells if another process of the service may take over the worker's pipes for a while."""
        ...

    @property
    def due(self) -> float:
        """The time of the loop by which its call must end or, if it loads the program, by which it must have loaded."""
        ...

    def when_due_changes(self, listener: Callable[[], None]) -> None:
        """Calls `listener` when the program of its call is loaded, and its deadline counts from then on."""

    def when_ended(self, listener: Callable[[Exit], None]) -> None:
        """Calls `listener` once the worker is dead, before its call is answered; at once if it is dead already."""

    def when_left(self, listener: Callable[[], None]) -> None:
        """Calls `listener` if `left_by` is set while no call runs."""

    def stats(self) -> ProcessStats | None:
        """Measures the worker, in any thread; None if it is gone or cannot be measured."""
        ...

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        """Calls `listener` with the resident memory in bytes, 0 if it is not known: at once, or when a node answers."""

    def log_ids(self) -> dict[str, str | None]:
        """The ids of the running call, if any, for a log line."""
        ...

    @property
    def is_lent(self) -> bool:
        """Tells if another process of the service has the worker's pipes, knows its call, and logs its death."""
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

    async def renew(self) -> None:
        """Makes workers that are started from now on run the code that is on disk now.

        Raises:
            SpawnFailed: that is impossible; workers are started as before.
        """

    async def aclose(self) -> None:
        """Ends every worker that is left."""
