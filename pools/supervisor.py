"""Keeps a pool's workers alive: starts, restarts, recycles, kills and measures them, and runs a call on one."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from common.backoff import restart_delay_s
from common.tasks import TaskOwner
from common.timers import Alarm
from pools.calls import Call, Result
from pools.errors import SpawnFailed, WorkerLost
from pools.process.exits import Exit, ExitCause
from pools.process.process import WorkerProcess
from pools.process.spawner import Spawner
from pools.process.stats import Usage, measure
from pools.protocol import PoolObserver, WorkerSnapshot
from pools.state import PoolState, Worker, WorkerState

INSPECTION_INTERVAL_S = 1.0
"""How often workers are measured against the limits on memory and age."""
SHORT_LIFE_S = 1.0
"""A worker that dies sooner than this after it was ready, without a call, counts as one that could not start."""

_log = structlog.stdlib.get_logger("poolshift.pools")


@dataclass(frozen=True, slots=True)
class RecycleLimits:
    """When a worker is replaced: after so many executions, over so many bytes, after so many seconds; None is never.

    One that grows past twice its bytes amid a call is killed at once, before the kernel has to choose a victim.
    """

    executions: int | None = None
    rss_bytes: int | None = None
    age_s: float | None = None


class Crew:
    """The workers of one pool."""

    def __init__(
        self,
        version: str,
        state: PoolState,
        spawner: Spawner,
        observer: PoolObserver,
        limits: RecycleLimits,
        on_change: Callable[[], None],
    ) -> None:
        """`on_change` is called when a worker has come or gone: one may be idle now, or none may be left."""
        self.version = version
        self.state = state
        self.dispatched = 0
        self.starts = 0
        self.exits: Counter[ExitCause] = Counter()
        self._spawner = spawner
        self._observer = observer
        self._limits = limits
        self._on_change = on_change
        self._failures = 0
        self._settled = asyncio.Event()
        self._pause: asyncio.TimerHandle | None = None
        self._cpu_of_the_dead_s = 0.0
        self._tasks = TaskOwner(f"workers of {version}", is_detached=True)
        self._alarm = Alarm(self._overrun)
        self._loop = asyncio.get_running_loop()

    # --- one call on one worker

    def give(self, worker: Worker, call: Call, on_end: Callable[[Result | Exception], None]) -> None:
        """Runs `call` on `worker`, which must have been taken for it; `on_end` is called with what comes of it.

        At the deadline the worker is killed; the answer to that comes when it is dead, so that the program surely runs
        no more.

        Raises:
            WorkerLost: the worker was dead already, and the call did not start.
            ExecutionError: it cannot be sent.
        """
        assert worker.process is not None
        try:
            worker.process.run(call, on_end)
        except WorkerLost:
            self.state.begin_stop(worker)  # its exit's report is on its way
            self._reconcile()
            raise
        call.dispatched_at = time.perf_counter()
        self.dispatched += 1
        self._alarm.set(call.deadline)

    def withdraw(self, which: Callable[[Call], bool]) -> int:
        """Takes the running calls that `which` names from their workers, which are killed; how many these were."""
        withdrawn = [worker for worker, call in self._running_calls() if which(call)]
        for worker in withdrawn:
            assert worker.process is not None
            self.kill(worker, ExitCause.CANCELLED)
            worker.process.withdraw()
        return len(withdrawn)

    def give_back(self, worker: Worker) -> None:
        """The call on `worker` is over."""
        limit = self._limits.executions
        if limit is not None and worker.executions >= limit:
            self._make_due(worker)
        retired = self.state.give_back(worker)
        if retired is not None:
            self._retire(retired)

    def kill(self, worker: Worker, cause: ExitCause) -> None:
        """Ends `worker` whatever it does; its replacement starts at once where there is room for it."""
        if worker.state is WorkerState.STOPPING or worker not in self.state.workers:
            return
        assert worker.process is not None
        self.state.begin_stop(worker)
        worker.process.kill(cause)
        self._reconcile()

    def _overrun(self, now: float) -> float:
        """Workers whose call has passed its deadline are killed; when the next one will have."""
        next_one = math.inf
        for worker, call in self._running_calls():
            if call.deadline <= now:
                self.kill(worker, ExitCause.TIMEOUT)
            else:
                next_one = min(next_one, call.deadline)
        return next_one

    def _running_calls(self) -> list[tuple[Worker, Call]]:
        return [
            (worker, worker.process.call)
            for worker in self.state.workers
            if worker.state is WorkerState.BUSY and worker.process is not None and worker.process.call is not None
        ]

    # --- keeping them alive

    async def start(self) -> None:
        """Starts all workers; returns when the first of them is ready or could not be started."""
        self._reconcile()
        self._tasks.start(self._inspect())
        await self._settled.wait()

    async def aclose(self) -> None:
        """Ends all workers and waits until they are dead."""
        self.state.is_closing = True
        self._alarm.cancel()
        if self._pause is not None:
            self._pause.cancel()
        await self._tasks.aclose()
        for worker in list(self.state.workers):
            if worker.state is WorkerState.IDLE:
                self._retire(worker, ExitCause.SHUTDOWN)
            elif worker.state is WorkerState.BUSY:
                self.kill(worker, ExitCause.SHUTDOWN)
        await asyncio.gather(*(worker.process.exited for worker in self.state.workers if worker.process is not None))

    def _reconcile(self) -> None:
        """Starts what the state wants, unless the last starts failed and the pause after that is not over."""
        if self._pause is None:
            for _ in range(self.state.wanted()):
                self._tasks.start(self._start_one(self.state.begin_start()))

    async def _start_one(self, worker: Worker) -> None:
        began = time.perf_counter()
        try:
            process = await self._spawner.spawn()
        except SpawnFailed as error:
            _log.error("worker could not be started", pool_version=self.version, reason=str(error))
            self.state.gone(worker)
            self._count_failure()
        except asyncio.CancelledError:
            self.state.gone(worker)
            raise
        else:
            self._started(worker, process, time.perf_counter() - began)
        self._settled.set()
        self._on_change()

    def _started(self, worker: Worker, process: WorkerProcess, seconds: float) -> None:
        self.starts += 1
        self._observer.worker_started(self.version, seconds)
        replaced = self.state.started(worker, process)
        if replaced is not None:
            self._retire(replaced)
        process.when_ended(lambda end: self._gone(worker, end))

    def _gone(self, worker: Worker, end: Exit) -> None:
        assert worker.process is not None
        self.exits[end.cause] += 1
        self._cpu_of_the_dead_s += end.cpu_s
        self._observer.worker_exited(self.version, end.cause)
        if end.cause.is_failure:
            _log.warning(
                "worker died",
                pool_version=self.version,
                pid=worker.process.pid,
                cause=end.cause,
                exit=end.description,
                **worker.process.log_ids(),
            )
        is_short_lived = worker.executions == 0 and time.time() - worker.process.started_at < SHORT_LIFE_S
        self.state.gone(worker)
        if end.cause.is_failure and is_short_lived:
            self._count_failure()
        else:
            self._failures = 0
        self._reconcile()
        self._on_change()

    def _count_failure(self) -> None:
        if self._pause is None:
            self._failures += 1
            self._pause = self._loop.call_later(restart_delay_s(self._failures), self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        self._reconcile()

    def _make_due(self, worker: Worker) -> None:
        if not worker.is_due:
            worker.is_due = True
            self._reconcile()

    def _retire(self, worker: Worker, cause: ExitCause = ExitCause.RECYCLED) -> None:
        assert worker.process is not None
        self.state.begin_stop(worker)
        worker.process.retire(cause)

    # --- measuring them

    async def _inspect(self) -> None:
        """Finds the workers that are over a limit."""
        while True:
            await asyncio.sleep(INSPECTION_INTERVAL_S)
            if self._limits.age_s is not None:
                oldest = time.time() - self._limits.age_s
                for worker in [w for w in self._running() if w.process and w.process.started_at < oldest]:
                    self._make_due(worker)
            if self._limits.rss_bytes is not None:
                for worker, usage in (await self._measure()).items():
                    if usage is not None and usage.rss_bytes > 2 * self._limits.rss_bytes:
                        self.kill(worker, ExitCause.OOM)
                    elif usage is not None and usage.rss_bytes > self._limits.rss_bytes:
                        self._make_due(worker)

    async def snapshots(self) -> tuple[tuple[WorkerSnapshot, ...], float]:
        """Every worker that has a process, measured now, and the processor time of all there ever were, in seconds."""
        usages = await self._measure()
        rows = []
        for worker, usage in usages.items():
            assert worker.process is not None
            rows.append(
                WorkerSnapshot(
                    pid=worker.process.pid,
                    state=worker.state,
                    age_s=time.time() - worker.process.started_at,
                    executions=worker.executions,
                    rss_bytes=usage.rss_bytes if usage else None,
                    cpu_seconds=usage.cpu_seconds if usage else None,
                    open_fds=usage.open_fds if usage else None,
                )
            )
        cpu_s = self._cpu_of_the_dead_s + sum(usage.cpu_seconds for usage in usages.values() if usage)
        return tuple(rows), cpu_s

    def _running(self) -> list[Worker]:
        return [worker for worker in self.state.workers if worker.process is not None]

    async def _measure(self) -> dict[Worker, Usage | None]:
        """In a thread, since the kernel's answers for many workers would hold up the event loop."""
        workers = self._running()
        pids = [worker.process.pid for worker in workers if worker.process is not None]
        usages = await asyncio.to_thread(lambda: [measure(pid) for pid in pids])
        return dict(zip(workers, usages, strict=True))
