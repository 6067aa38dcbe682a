"""The protocol of a pool, which every engine implements: the router knows this and no engine."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pools.calls import Call, OnOutcome, Result
from pools.process.exits import ExitCause
from pools.process.interface import TryOut
from poolshift.worker.definitions import Definition


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One worker at one moment. `rss_bytes`, `cpu_seconds` and `open_fds` are measured; None if its process is gone."""

    pid: int
    state: str
    age_s: float
    executions: int
    rss_bytes: int | None
    cpu_seconds: float | None
    open_fds: int | None
    programs_revision: str
    """The revision of the programs' code that it has."""
    node: str | None = None
    """The node of a cluster that it is on; None is the service's own machine."""
    execution_id: str | None = None
    """The running call; of several, the oldest."""
    program_id: str | None = None
    running_s: float | None = None
    """Time since the worker got the running call, in seconds."""
    calls: int = 0
    """The number of running calls."""
    replica: int | None = None
    """The replica of its machine that it works for; None if there is one process, or nobody has asked the others."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A program that is refused for a while, since it has killed workers in a row."""

    key: str
    """`Program.quarantine_key`."""
    deaths: int
    left_s: float
    """Seconds until a call may try again; 0 if one may now."""


@dataclass(frozen=True, slots=True)
class RunAlone:
    """A program that could run beside others, and has a worker for itself for some reason."""

    key: str
    """`Program.quarantine_key`."""
    program_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One pool at one moment. The totals count from the start of the service."""

    version: str
    size: int
    busy: int
    """The calls that run, those that nobody waits for included."""
    idle: int
    """The workers without a call."""
    starting: int
    stopping: int
    queue_depth: int
    utilization: float
    dispatched_total: int
    worker_starts_total: int
    worker_exits_total: dict[ExitCause, int]
    service_time_s: float
    cpu_seconds_total: float
    programs_revision: str | None
    """The revision of the code that workers have which are started now; None before the first start."""
    workers: tuple[WorkerSnapshot, ...]
    wished_size: int | None = None
    """The size that the settings ask for; `size` is less while a cluster has no room for so many workers."""
    quarantined: tuple[Quarantined, ...] = ()
    run_alone: tuple[RunAlone, ...] = ()
    fault: str | None = None
    """The reason for which the last start of a worker failed; None once a worker has started since."""
    lanes: int = 1
    """The calls that a worker can run at once."""
    previous_revision: str | None = None
    """The revision of the code from before the last reload; None if that code is not kept."""
    warm: int = 0
    """Live workers that have loaded the programs which were used lately, or have had the time for it."""

    @property
    def is_ready(self) -> bool:
        """True if a worker lives that could take a call."""
        return self.busy + self.idle > 0

    @property
    def capacity(self) -> int:
        """The calls that run at once if all workers live and none of the calls needs one for itself."""
        return self.size * self.lanes


class PoolObserver(Protocol):
    """Is told what happens to the workers of a pool."""

    def worker_started(self, version: str, seconds: float) -> None:
        """A worker is ready, `seconds` after it was asked for."""

    def worker_exited(self, version: str, cause: ExitCause) -> None:
        """A worker is dead."""

    def loop_blocked(self, version: str, seconds: float) -> None:
        """A call let no other call of its worker run, for so many seconds."""


class Pool(Protocol):
    """Runs calls on workers. Every call gets exactly one answer: a result, or one of `poolshift.worker.errors`."""

    version: str

    def capacity_of(self, definition: Definition) -> int:
        """The number of calls of a program that run at once if all workers live."""
        ...

    async def start(self) -> None:
        """Starts the workers; returns when the first of them is ready or could not be started."""

    def begin(self, call: Call, on_outcome: OnOutcome) -> None:
        """Takes `call`, and calls `on_outcome` once: with its result, one of `poolshift.worker.errors`, or Withdrawn.

        A call that was withdrawn may be given to another pool. The result comes within the turn of the event loop in
        which the worker's reply arrives, anything else in a turn of its own.

        Raises:
            ExecutionError: the pool does not take the call; `on_outcome` is not called.
        """

    def abandon(self, call: Call) -> None:
        """Ends a call that nobody waits for: it leaves the queue, or its worker is killed; nobody is told any more."""

    def begin_idle(self, call: Call, avoid_pid: int | None = None) -> asyncio.Future[Result] | None:
        """Begins `call` on a worker that no real call needs, on another than `avoid_pid` if there is one.

        Returns None if no worker is to spare. The answer is the result, an ExecutionError, or Preempted: a real call
        needed the worker.
        """
        ...

    def end_idle(self, answer: asyncio.Future[Result]) -> None:
        """Ends a call of `begin_idle`, whose worker is killed."""
        ...

    def withdraw(self, which: Callable[[Call], bool]) -> int:
        """Takes back the queued calls that `which` names, which then raise Withdrawn. Returns their number."""
        ...

    def withdraw_running(self, which: Callable[[Call], bool]) -> int:
        """Takes back the running calls that `which` names: their workers are killed, and they raise Withdrawn."""
        ...

    @property
    def is_ready(self) -> bool:
        """True if a worker lives that could take a call."""
        ...

    @property
    def warm_workers(self) -> int:
        """The live workers that have loaded the programs which were used lately, or have had the time for it."""
        ...

    def is_warm_for(self, share: float) -> bool:
        """Tells if as many workers are warm as a share of the traffic, 0 to 1, needs: at least one if it is not 0."""
        ...

    async def warmed(self, share: float) -> bool:
        """Waits until the pool is warm for a share; False if `WARM_TIMEOUT_S` has passed or no worker can start."""
        ...

    @property
    def is_down(self) -> bool:
        """True if no worker lives and the pool cannot start one: none has ever started, or the last starts failed."""
        ...

    @property
    def fault(self) -> str | None:
        """The reason for which the last start of a worker failed; None once a worker has started since."""
        ...

    def when_down(self, listener: Callable[[], None]) -> None:
        """Calls `listener` each time that calls wait in the queue and the pool `is_down`."""

    async def snapshot(self) -> PoolSnapshot:
        """The pool at this moment, its workers measured."""
        ...

    async def reload(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        """Replaces all workers, one after another, by workers with the code that is on disk now; no call is lost.

        `try_out` is asked before, if the pool has code already; see `WorkerSpawner.renew` for `is_forced`.

        Raises:
            SpawnFailed: no worker with that code can be started, or `try_out` refuses it, and all are as they were. On
                Ray, nodes before the one that cannot start it may start workers with that code from now on.
        """

    async def bring_back(self) -> None:
        """Replaces all workers in the same way by workers with the code from before the last reload.

        Raises:
            NoPreviousCode: that code is not kept, and all are as they were.
            SpawnFailed: no worker with it can be started, and all are as they were.
        """

    def refuse(self) -> None:
        """From now on new calls raise PoolClosed; those that were accepted, here or by another pool, go on."""

    @property
    def is_drained(self) -> bool:
        """True if no call is queued or running."""
        ...

    async def drain(self) -> None:
        """Waits until no call is queued or running."""

    async def aclose(self) -> None:
        """Ends what still runs (these calls raise PoolClosed) and all workers."""
