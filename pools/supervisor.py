"""Keeps a pool's workers alive: starts, restarts, recycles, kills and measures them, and runs a call on one."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

import structlog

from common.background import Background
from common.backoff import backoff_s
from common.tasks import TaskOwner
from common.timers import DeadlineTimer
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, SpawnFailed, WorkerLost
from pools.process.exits import Exit, ExitCause, log_death
from pools.process.interface import LoadOrder, TryOut, Worker, WorkerSpawner
from pools.process.stats import ProcessStats
from pools.protocol import PoolObserver, WorkerSnapshot
from pools.start_failures import StartFailures
from pools.state import PoolState, WorkerSlot, WorkerState

INSPECTION_INTERVAL_S = 1.0
"""Time between two comparisons of workers with the limits on memory and age."""
SHORT_LIFE_S = 1.0
"""A worker that dies sooner than this after it was ready, without a call, counts as one that could not start."""

MIB = 1024 * 1024

_perf_counter: Final = time.perf_counter
_log = structlog.stdlib.get_logger("poolshift.pools")


@dataclass(frozen=True, slots=True)
class RecycleLimits:
    """The executions, the bytes and the seconds after which a worker is replaced; None is never.

    A worker that grows past twice `rss_bytes` amid a call is killed at once, before the kernel has to choose a victim.
    """

    executions: int | None = None
    rss_bytes: int | None = None
    age_s: float | None = None


Fault = Literal["blocks", "ignores cancellation"]
"""The ways in which a program harms the calls beside which it runs."""


def _memory_limit(work: Call | Program) -> int | None:
    """The limit of memory, in MiB, of the program that a worker runs or loads."""
    return (work.program if isinstance(work, Call) else work).memory_mb


def _works_of(process: Worker) -> list[Call | Program]:
    """The calls that a worker runs, or the program that it loads, at the moment."""
    return [*process.calls] if process.loading is None else [process.loading]


async def _nothing(_: WorkerSlot) -> None:
    """Warms no worker."""


def _no_harm(_: Program, __: Fault) -> None:
    """Draws no conclusion, since each call has its worker for itself."""


class Supervisor:
    """The workers of one pool."""

    def __init__(
        self,
        version: str,
        state: PoolState,
        spawner: WorkerSpawner,
        observer: PoolObserver,
        limits: RecycleLimits,
        on_change: Callable[[], None],
        background: Background,
    ) -> None:
        """`on_change` is called when a worker has come or gone: one may be idle now, or none may be left."""
        self.version = version
        self.state = state
        self.wished = state.size
        """The size that the pool is to have; `state.size` is less while there is no room for so many workers."""
        self.dispatched = 0
        self.starts = 0
        self.exits: Counter[ExitCause] = Counter()
        self._spawner = spawner
        self._observer = observer
        self._limits = limits
        self._on_change = on_change
        self._background = background
        self._inspection: asyncio.Task[None] | None = None
        self._failures = 0
        self._start_failures = StartFailures(version)
        self.fault: str | None = None
        """The reason for which the last start of a worker failed; None once a worker has started since."""
        self.warm: Callable[[WorkerSlot], Awaitable[None]] = _nothing
        """Loads programs into a worker that has just been started, before it is idle."""
        self.runs_badly: Callable[[Program, Fault], None] = _no_harm
        """Is told of a program that harms the calls beside which it runs."""
        self._settled = asyncio.Event()
        self._departure = asyncio.Event()
        """Set each time that a worker is gone."""
        self._health = background.vital(f"supervisor_{version}")
        self._pause: asyncio.TimerHandle | None = None
        self._cpu_of_the_dead_s = 0.0
        self._tasks = TaskOwner(f"workers of {version}", is_detached=True)
        self._deadline_timer = DeadlineTimer(self._overrun)
        self._loop = asyncio.get_running_loop()

    # --- one call on one worker

    def give(self, slot: WorkerSlot, call: Call, on_end: Callable[[Result | Exception], None]) -> None:
        """Runs `call` on `slot`, which must have been taken for it; `on_end` is called with what comes of it.

        At the deadline the call is cancelled, or, if it has the worker for itself, the worker is killed. The answer to
        that comes when the program surely runs no more.

        Raises:
            WorkerLost: the worker was dead already, and the call did not start.
            ExecutionError: it cannot be sent.
        """
        process = slot.process
        assert process is not None
        if call.program.memory_mb is not None and slot.calls <= 1:
            slot.rss_before = None
            process.ask_memory(slot.note_memory)
        try:
            due = process.run(call, on_end)
        except WorkerLost:
            self._lost(slot)
            raise
        call.dispatched_at = _perf_counter()
        call.worker_pid = process.pid
        self.dispatched += 1
        self._deadline_timer.set(due)

    def load(
        self,
        slot: WorkerSlot,
        program: Program,
        order: LoadOrder,
        on_end: Callable[[ExecutionError | None], None],
    ) -> None:
        """Has the worker of `slot` load a program; it must be starting, or taken for that.

        `on_end` is called with the failure, if there is one. A worker that is over the time of a load is killed.

        Raises:
            ExecutionError, WorkerFull: the load cannot be sent.
            WorkerLost: the worker was dead already.
        """
        process = slot.process
        assert process is not None
        if program.memory_mb is not None:
            slot.rss_before = None
            process.ask_memory(slot.note_memory)
        try:
            process.load(program, order, on_end)
        except WorkerLost:
            self._lost(slot)
            raise
        slot.was_loading = True
        self._deadline_timer.set(process.due)

    def _lost(self, slot: WorkerSlot) -> None:
        """Takes a worker that is dead out of service; its exit's report is on its way."""
        self.state.begin_stop(slot)
        self._reconcile()

    def withdraw(self, which: Callable[[Call], bool]) -> int:
        """Takes the running calls that `which` names from their workers. Returns their number."""
        withdrawn = [(slot, call) for slot, call in self._running_calls() if which(call)]
        for slot, call in withdrawn:
            assert slot.process is not None
            self.end_call(slot, call, ExitCause.CANCELLED)
            slot.process.withdraw(call)
        return len(withdrawn)

    def end_call(self, slot: WorkerSlot, call: Call, cause: ExitCause) -> None:
        """Ends a call that runs on `slot`: cancels it if it runs beside others, else kills the worker.

        A call that has ignored its cancellation for `CANCEL_GRACE_S` costs the worker, too.
        """
        process = slot.process
        assert process is not None
        due = process.cancel(call, cause)
        if due is not None:
            self._deadline_timer.set(due)
            return
        is_ignored = process.ignores_cancellation(call)
        self.kill(slot, cause)
        if is_ignored:
            self.runs_badly(call.program, "ignores cancellation")

    def give_back(self, slot: WorkerSlot) -> None:
        """The call on `slot` is over."""
        process = slot.process
        is_last = slot.calls <= 1
        if process is not None and process.left_by is not None and slot.state is WorkerState.BUSY and is_last:
            self._replace(slot)
            return
        self.mark_if_worn(slot)
        retired = self.state.give_back(slot)
        if retired is not None:
            self._retire(retired)

    def mark_if_worn(self, slot: WorkerSlot) -> None:
        """Makes a worker due that has run as many executions as it may."""
        limit = self._limits.executions
        if limit is not None and slot.executions >= limit:
            self._make_due(slot)

    def drain(self, slot: WorkerSlot) -> bool:
        """Replaces a worker of many calls once these have ended; False if it has one at most."""
        is_begun = self.state.begin_drain(slot)
        if is_begun:
            self._reconcile()
        return is_begun

    def kill(self, slot: WorkerSlot, cause: ExitCause, reason: str | None = None) -> None:
        """Ends `slot` whatever it does; its replacement starts at once if there is room for it.

        `reason` is the memory limit that it grew past, if that is not the pool's.
        """
        if slot.state is WorkerState.STOPPING or slot not in self.state.slots:
            return
        assert slot.process is not None
        self.state.begin_stop(slot)
        slot.process.kill(cause, reason)
        self._reconcile()

    def _overrun(self, now: float) -> float:
        """Ends calls and loads that are over their time. Returns the next such time."""
        return min((self._end_overdue(slot, now) for slot in self._running()), default=math.inf)

    def _end_overdue(self, slot: WorkerSlot, now: float) -> float:
        """Ends the load of a worker that is over its time, or the calls that are, or that ignore their cancellation.

        Returns the next time at which one is.
        """
        process = slot.process
        assert process is not None
        if slot.state is not WorkerState.STOPPING and process.due <= now:
            if process.load_due <= now:
                self.kill(slot, ExitCause.TIMEOUT)
            for call in process.overdue(now):
                self.end_call(slot, call, ExitCause.TIMEOUT)
        return math.inf if slot.state is WorkerState.STOPPING else process.due

    def _running_calls(self) -> list[tuple[WorkerSlot, Call]]:
        return [
            (slot, call)
            for slot in self.state.slots
            if slot.state is WorkerState.BUSY and slot.process is not None
            for call in slot.process.calls
        ]

    @property
    def cannot_start(self) -> bool:
        """True if no worker has ever started, the last ones could not start or died at once, or there is no room."""
        return self.starts == 0 or self._failures > 0 or self.state.size == 0

    @property
    def programs_revision(self) -> str | None:
        """The revision of the code that workers have which are started now; None before the first start."""
        return self._spawner.revision

    @property
    def previous_revision(self) -> str | None:
        """The revision of the code from before the last reload; None if that code is not kept."""
        return self._spawner.previous_revision

    # --- keeping them alive

    async def start(self) -> None:
        """Starts all workers; returns when the first of them is ready or could not be started."""
        self._spawner.watch_places(self._places_changed)
        self._places_changed()
        self._inspection = self._background.run(f"inspection_{self.version}", self._inspect, is_vital=True)
        await self._settled.wait()

    async def aclose(self) -> None:
        """Ends all workers and waits until they are dead."""
        self.state.is_closing = True
        self._deadline_timer.cancel()
        if self._pause is not None:
            self._pause.cancel()
        if self._inspection is not None:
            await self._background.stop(self._inspection)
        await self._tasks.aclose()
        self._start_failures.tell()
        for slot in list(self.state.slots):
            if slot.state is WorkerState.IDLE:
                self._retire(slot, ExitCause.SHUTDOWN)
            elif slot.process is not None:
                self.kill(slot, ExitCause.SHUTDOWN)
        deaths = [slot.process.exited for slot in self.state.slots if slot.process is not None]
        if deaths:
            await asyncio.wait(
                deaths
            )  # not `gather`: if this is cancelled, it would cancel them, which are not its own
        self._departure.set()

    async def reload(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        """Replaces all workers, one after another, by workers with the code that is on disk now; no call is lost.

        Raises:
            SpawnFailed: no worker with that code can be started, or `try_out` refuses it, and none is replaced.
        """
        await self._spawner.renew(try_out, is_forced=is_forced)
        await self._replace_all()

    async def bring_back(self) -> None:
        """Replaces all workers in the same way by workers with the code from before the last reload.

        Raises:
            NoPreviousCode: that code is not kept, and none is replaced.
            SpawnFailed: no worker with it can be started, and none is replaced.
        """
        await self._spawner.bring_back()
        await self._replace_all()

    async def _replace_all(self) -> None:
        old = set(self.state.slots)
        for slot in old:
            slot.is_due = True
        self._reconcile()
        while old & self.state.slots:
            self._departure.clear()
            await self._departure.wait()

    def _places_changed(self) -> None:
        """Gives the pool as many workers as it is to have and as there is room for."""
        places, failure, before = self._spawner.places, self._spawner.start_failure, self.state.size
        self.state.size = self.wished if places is None else min(self.wished, places)
        if self.state.size > before and self._pause is not None:
            self._pause.cancel()  # it is for the places that there were
            self._pause = None
        if failure is not None and not self.state.live:
            self.fault = failure
            self._settled.set()
        self._reconcile()
        self._on_change()

    def _reconcile(self) -> None:
        """Starts what the state wants, unless the last starts failed and the pause after that is not over."""
        if self._pause is None:
            for _ in range(self.state.wanted()):
                self._tasks.start(self._start_one(self.state.begin_start()))

    async def _start_one(self, slot: WorkerSlot) -> None:
        """Fills `slot`, or frees it: whatever a start raises is one failed start."""
        began = time.perf_counter()
        try:
            process = await self._spawner.spawn()
        except SpawnFailed as error:
            self._start_failed(slot, str(error))
        except Exception as error:
            self._health.failed()
            self._start_failed(slot, f"{type(error).__name__}: {error}")
        except BaseException:
            self._leave(slot)
            raise
        else:
            self._health.works()
            self._up(slot, process)
            await self.warm(slot)
            if slot.state is not WorkerState.STARTING:
                return  # it died meanwhile, and another one is being started
            self._started(slot, process, time.perf_counter() - began)
        self._settled.set()
        self._on_change()

    def _start_failed(self, slot: WorkerSlot, reason: str) -> None:
        self._leave(slot)
        self._count_failure()
        self.fault = reason
        self._start_failures.add(reason)

    def _leave(self, slot: WorkerSlot) -> None:
        self.state.gone(slot)
        self._departure.set()

    def _up(self, slot: WorkerSlot, process: Worker) -> None:
        """Watches a worker that lives from now on, and is about to be warmed."""
        slot.process = process
        process.when_left(lambda: self._left(slot))
        process.when_blocked(self._blocked)
        process.when_due_changes(lambda: self._deadline_timer.set(process.due))
        process.when_ended(lambda end: self._gone(slot, end))

    def _left(self, slot: WorkerSlot) -> None:
        """Replaces a worker that a call has made unfit for others, once it has no call."""
        if slot.state is not WorkerState.BUSY:
            self._replace(slot)
        else:
            self.drain(slot)

    def _blocked(self, program: Program | None, seconds: float, is_over: bool) -> None:  # noqa: FBT001  # as it is told
        if is_over:
            self._observer.loop_blocked(self.version, seconds)
        elif program is not None:
            self.runs_badly(program, "blocks")

    def _started(self, slot: WorkerSlot, process: Worker, seconds: float) -> None:
        self.starts += 1
        self.fault = None
        self._observer.worker_started(self.version, seconds)
        replaced = self.state.started(slot, process)
        if replaced is not None:
            self._retire(replaced)

    def _gone(self, slot: WorkerSlot, end: Exit) -> None:
        assert slot.process is not None
        is_unused = slot.executions == 0 and not slot.was_loading
        is_short_lived = is_unused and time.time() - slot.process.started_at < SHORT_LIFE_S
        was_warming = slot.state is WorkerState.STARTING and slot.process.loading is not None
        self._leave(slot)
        self.exits[end.cause] += 1
        self._cpu_of_the_dead_s += end.cpu_s
        if end.cause.is_failure and is_short_lived:
            self._count_failure()
        else:
            self._failures = 0
        self._reconcile()
        self._observer.worker_exited(self.version, end.cause)
        if end.cause.is_failure and not was_warming:
            log_death(self.version, slot.process.pid, end, slot.process.log_ids())
        self._on_change()

    def _count_failure(self) -> None:
        if self._pause is None:
            self._failures += 1
            self._pause = self._loop.call_later(backoff_s(self._failures), self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        self._reconcile()

    def _make_due(self, slot: WorkerSlot) -> None:
        if not slot.is_due:
            slot.is_due = True
            self._reconcile()

    def _replace(self, slot: WorkerSlot) -> None:
        """Retires a worker that is not to serve another call, and starts the next at once."""
        if slot.state is not WorkerState.STOPPING:
            self._retire(slot)
            self._reconcile()

    def _retire(self, slot: WorkerSlot, cause: ExitCause = ExitCause.RECYCLED) -> None:
        assert slot.process is not None
        self.state.begin_stop(slot)
        slot.process.retire(cause)

    # --- measuring them

    async def _inspect(self) -> None:
        """Finds the workers that are over a limit."""
        while True:
            await asyncio.sleep(INSPECTION_INTERVAL_S)
            works = {slot: _works_of(slot.process) for slot in self._running() if slot.process is not None}
            is_needed = self._limits.rss_bytes is not None or any(map(_memory_limit, chain(*works.values())))
            usages = await self._all_stats() if is_needed else {}
            for slot in self._running():
                try:
                    self._enforce_limits(slot, usages.get(slot))
                    if (usage := usages.get(slot)) is not None:
                        self._enforce_program_limit(slot, usage, works.get(slot, []))
                except Exception:
                    _log.exception("worker could not be inspected", pool_version=self.version)

    def _enforce_limits(self, slot: WorkerSlot, usage: ProcessStats | None) -> None:
        """Recycles a worker that is over its limit of age or memory; kills one that is over twice its memory.

        If it runs many calls at once, it is recycled instead: none of them is known to be the cause.
        """
        assert slot.process is not None
        limit = self._limits.rss_bytes
        if limit is not None and usage is not None:
            if usage.rss_bytes > 2 * limit:
                self._end_for_memory(slot)
            elif usage.rss_bytes > limit:
                self._make_due(slot)
        if self._limits.age_s is not None and slot.process.started_at < time.time() - self._limits.age_s:
            self._make_due(slot)

    def _end_for_memory(self, slot: WorkerSlot, reason: str | None = None) -> None:
        if self.state.runs_many(slot):
            self._make_due(slot)
        else:
            self.kill(slot, ExitCause.OOM, reason)

    def _enforce_program_limit(self, slot: WorkerSlot, usage: ProcessStats, works: list[Call | Program]) -> None:
        """Kills a worker that has grown past the limit of its program, or recycles it if it runs many calls.

        `usage` was measured amid `works`. If the worker was over the limit before, the program may add as much as that.
        """
        assert slot.process is not None
        limits_mb = [limit for work in works if (limit := _memory_limit(work)) is not None]
        if not limits_mb or slot.rss_before is None or _works_of(slot.process) != works:
            return
        limit = min(limits_mb) * MIB
        allowed = limit if slot.rss_before <= limit else slot.rss_before + limit
        if usage.rss_bytes > allowed:
            self._end_for_memory(slot, f"its program's memory limit of {min(limits_mb)} MiB (memory_mb)")

    async def snapshots(self) -> tuple[tuple[WorkerSnapshot, ...], float]:
        """Every worker that has a process, measured now, and the processor time of all there ever were, in seconds."""
        usages = await self._all_stats()
        rows = tuple(_snapshot_of(slot, usage) for slot, usage in usages.items())
        cpu_s = self._cpu_of_the_dead_s + sum(usage.cpu_seconds for usage in usages.values() if usage)
        return rows, cpu_s

    def _running(self) -> list[WorkerSlot]:
        return [slot for slot in self.state.slots if slot.process is not None]

    async def _all_stats(self) -> dict[WorkerSlot, ProcessStats | None]:
        slots = self._running()
        usages = await self._spawner.measure([slot.process for slot in slots if slot.process is not None])
        return dict(zip(slots, usages, strict=True))


def _snapshot_of(slot: WorkerSlot, usage: ProcessStats | None) -> WorkerSnapshot:
    process = slot.process
    assert process is not None
    calls = process.calls if slot.state is WorkerState.BUSY else ()
    oldest = calls[0] if calls else None
    return WorkerSnapshot(
        pid=process.pid,
        state=slot.state,
        age_s=time.time() - process.started_at,
        executions=slot.executions,
        calls=len(calls),
        rss_bytes=usage.rss_bytes if usage else None,
        cpu_seconds=usage.cpu_seconds if usage else None,
        open_fds=usage.open_fds if usage else None,
        programs_revision=process.revision,
        node=process.node,
        execution_id=None if oldest is None else oldest.execution_id,
        program_id=None if oldest is None else oldest.program.id,
        running_s=None if oldest is None else time.perf_counter() - oldest.dispatched_at,
    )
