"""The common part of both engines: admission, the queue and its deadlines, drain.

An engine decides when a call may go to a slot. A call has no task of its own. When its reply arrives, the worker is
given the next call of the queue at once, and the caller is told afterwards, in the same turn of the event loop.

One call, from the top:

    closed?       ──► PoolClosed
    quarantined?  ──► ProgramQuarantined
    queue full, or the deadline cannot be met  ──► PoolOverloaded, at once
    no worker in time                          ──► CheckoutTimeout
    the worker died                            ──► WorkerCrashed, also if `routing.router` runs the call once more then

The limit of the queue and the estimate of the wait are for new calls. A call that a pool has accepted before is never
shed: it moved here, or its worker died.
"""

import abc
import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from common.background import Background
from common.timers import DeadlineTimer
from pools.backpressure import HOLD_LIMIT_S, Backpressure
from pools.call_queue import CallQueue
from pools.calls import Call, OnOutcome, Result, average_with
from pools.errors import (
    CheckoutTimeout,
    ExecutionError,
    ExecutionTimeout,
    PoolClosed,
    PoolOverloaded,
    Withdrawn,
    WorkerCrashed,
    WorkerLost,
)
from pools.events import EventSink
from pools.fair_queue import QueuedCall
from pools.idle_runs import IdleRuns
from pools.loads import Loads
from pools.process.exits import ExitCause
from pools.process.interface import TryOut, WorkerSpawner
from pools.protocol import PoolObserver, PoolSnapshot, RunAlone
from pools.quarantine import Quarantine
from pools.state import PoolState, WorkerSlot, WorkerState
from pools.supervisor import RecycleLimits, Supervisor
from pools.warming import Warming, WarmOptions
from poolshift.worker.definitions import Definition

_log = structlog.stdlib.get_logger("poolshift.pools")

_perf_counter: Final = time.perf_counter

COLD_EXECUTIONS: Final = 20
"""A worker's first executions are slower whatever its version is."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The size of a pool and the bounds of its queue; times in seconds."""

    size: int
    queue_limit: int = 1000
    checkout_timeout_s: float = 5.0
    recycle: RecycleLimits = field(default_factory=RecycleLimits)
    load_timeout_s: float = 60.0
    """The time that a program has to load; a call may wait for a load for so long beyond `checkout_timeout_s`."""
    warm: WarmOptions = field(default_factory=WarmOptions)
    worker_concurrency: int = 1
    """The calls that a worker of an engine runs at once whose workers are shared."""


class _EnginesCall(QueuedCall):
    """A call of one engine, which its worker tells how it has ended."""

    def __init__(self, engine: "Engine", call: Call, on_outcome: OnOutcome) -> None:
        super().__init__(call, on_outcome)
        self._engine = engine

    def ended(self, outcome: Result | Exception) -> None:
        """Ends the call, which has run."""
        self._engine.end(self, outcome)


class Engine(abc.ABC):
    """A pool (see `pools.protocol.Pool`), except for the decision when a call may go to a slot."""

    def __init__(
        self,
        version: str,
        options: PoolOptions,
        spawner: WorkerSpawner,
        observer: PoolObserver,
        background: Background,
    ) -> None:
        self.version = version
        self._options = options
        self._limit = options.queue_limit
        self._checkout_timeout_s = options.checkout_timeout_s
        self._loop = asyncio.get_running_loop()
        self._state = self._make_state(options)
        self._supervisor = Supervisor(
            version, self._state, spawner, observer, options.recycle, self._workers_changed, background
        )
        self._queue = CallQueue()
        self._idle_runs = IdleRuns(self._state, self._supervisor, self._queue, self._serve_queue)
        self._deadline_timer = DeadlineTimer(self._expire)
        self._loads = Loads(
            self._state,
            self._supervisor,
            self._queue,
            load_timeout_s=options.load_timeout_s,
            timer=self._deadline_timer,
            resolve=self._resolve,
            serve_queue=self._serve_queue,
        )
        self._warming = Warming(
            version,
            self._state,
            self._supervisor,
            options.warm,
            load_timeout_s=options.load_timeout_s,
            is_busy=lambda: self._queue.waiting > 0,
            serve_queue=self._serve_queue,
            loaded=lambda definition: self._loads.settle(definition, None),
        )
        self._supervisor.warm = self._warming.warm
        self._quarantine = Quarantine()
        self._service_time_s = 0.0
        self._calls = 0
        self._refuses = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._on_down: Callable[[], None] | None = None
        self._background = background
        self._keeper: asyncio.Task[None] | None = None
        self.hear: Callable[[], None] | None = None
        """Brings into force what other replicas of the machine have changed, if there are any."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state!r} waiting={self._queue.waiting} calls={self._calls}>"

    # --- what an engine adds

    def _make_state(self, options: PoolOptions) -> PoolState:
        return PoolState(options.size, spare=max(1, options.size // 4))

    @property
    def _run_alone(self) -> tuple[RunAlone, ...]:
        """The programs that could run beside others and do not."""
        return ()

    @abc.abstractmethod
    def _can_begin(self) -> bool:
        """True if a call may go to a worker now."""

    @property
    @abc.abstractmethod
    def _concurrency(self) -> int:
        """The number of calls that can run at once."""

    def capacity_of(self, definition: Definition) -> int:
        return self._options.size

    # --- streams: a worker is taken back from a stream that nobody reads, once other calls need it

    def _backpressure_on(self, queued_call: QueuedCall, sink: EventSink) -> Backpressure:
        """Makes the link between the worker and `sink`."""
        return Backpressure(sink, self._is_short_of_workers, partial(self._end_held, queued_call))

    def _engage(self, queued_call: QueuedCall) -> None:
        if queued_call.call.events is not None:
            queued_call.call.events = self._backpressure_on(queued_call, queued_call.call.events)

    def _release(self, queued_call: QueuedCall) -> None:
        if isinstance(queued_call.call.events, Backpressure):
            queued_call.call.events = queued_call.call.events.close()

    @property
    def _real_calls(self) -> int:
        """The number of running calls that somebody waits for."""
        return self._state.calls - self._idle_runs.count - self._loads.count - self._warming.count

    def _is_short_of_workers(self) -> bool:
        """True if more calls wait than the workers that are idle, or being replaced, will serve."""
        counts = self._state.counts()
        coming = counts[WorkerState.STARTING] + counts[WorkerState.STOPPING]
        return not self._state.has_room and self._queue.waiting_for_workers > coming

    def _end_held(self, queued_call: QueuedCall) -> None:
        detail = f"its client read nothing for {HOLD_LIMIT_S:g} s or more, and other calls waited for its worker"
        self._resolve(queued_call, ExecutionTimeout(detail))
        self._drop(queued_call)

    # --- the protocol

    async def start(self) -> None:
        await self._supervisor.start()
        if self._options.warm.timeout_s:
            self._keeper = self._background.run(f"warming_{self.version}", self._warming.keep)

    def begin(self, call: Call, on_outcome: OnOutcome) -> None:
        if self._refuses:
            self._let_in(call)
        if not call.is_retry:
            self._quarantine.admit(call.program.quarantine_key, call.execution_id)
        queued_call = call.entry = _EnginesCall(self, call, on_outcome)
        self._calls += 1
        try:
            self._admit(queued_call)
        except ExecutionError as error:
            queued_call.is_over, queued_call.on_outcome, call.entry = True, None, None
            self._count_end()
            self._failed(call, error)
            raise
        except BaseException:
            self.abandon(call)
            raise

    def abandon(self, call: Call) -> None:
        queued_call, call.entry = call.entry, None
        if not isinstance(queued_call, QueuedCall) or queued_call.on_outcome is None:
            return
        queued_call.on_outcome = None
        if not queued_call.is_over:
            queued_call.is_over = True
            self._drop(queued_call)
        self._quarantine.undecided(call.program.quarantine_key, call.execution_id)
        self._count_end()

    def begin_idle(self, call: Call, avoid_pid: int | None = None) -> asyncio.Future[Result] | None:
        if self._refuses:
            return None
        return self._idle_runs.begin(call, self._concurrency - self._real_calls, avoid_pid)

    def end_idle(self, answer: asyncio.Future[Result]) -> None:
        self._idle_runs.end(answer)

    def withdraw(self, which: Callable[[Call], bool]) -> int:
        withdrawn = [queued_call for queued_call in self._queue.queued_calls() if which(queued_call.call)]
        for queued_call in withdrawn:
            self._give_up(queued_call, Withdrawn())
        return len(withdrawn)

    def withdraw_running(self, which: Callable[[Call], bool]) -> int:
        return self._supervisor.withdraw(which)

    @property
    def is_ready(self) -> bool:
        return self._state.live > 0

    @property
    def is_down(self) -> bool:
        return self._state.live == 0 and self._supervisor.cannot_start

    @property
    def fault(self) -> str | None:
        return self._supervisor.fault

    @property
    def warm_workers(self) -> int:
        return self._warming.warm_workers

    def is_warm_for(self, share: float) -> bool:
        return self._warming.is_warm_for(share)

    async def warmed(self, share: float) -> bool:
        return await self._warming.warmed(share)

    def when_down(self, listener: Callable[[], None]) -> None:
        self._on_down = listener

    async def snapshot(self) -> PoolSnapshot:
        slots, cpu_s = await self._supervisor.snapshots()
        counts = self._state.counts()
        return PoolSnapshot(
            version=self.version,
            size=self._state.size,
            wished_size=self._options.size,
            busy=self._state.calls,
            idle=counts[WorkerState.IDLE],
            starting=counts[WorkerState.STARTING],
            stopping=counts[WorkerState.STOPPING],
            queue_depth=self._queue.waiting - self._loads.served,
            utilization=self._state.calls / max(1, self._state.size * self._state.lanes),
            dispatched_total=self._supervisor.dispatched,
            worker_starts_total=self._supervisor.starts,
            worker_exits_total=dict(self._supervisor.exits),
            service_time_s=self._service_time_s,
            cpu_seconds_total=cpu_s,
            programs_revision=self._supervisor.programs_revision,
            previous_revision=self._supervisor.previous_revision,
            workers=slots,
            quarantined=self._quarantine.quarantined(),
            run_alone=self._run_alone,
            lanes=self._state.lanes,
            fault=self._supervisor.fault,
            warm=self._warming.warm_workers,
        )

    async def reload(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        await self._supervisor.reload(try_out, is_forced=is_forced)

    async def bring_back(self) -> None:
        await self._supervisor.bring_back()

    def refuse(self) -> None:
        self._refuses = True
        if self._calls:
            self._drained.clear()

    def _let_in(self, call: Call) -> None:
        """Raises PoolClosed, but for a call that was accepted before and comes over from another pool."""
        if not call.is_accepted or self._state.is_closing:
            raise PoolClosed
        self._drained.clear()

    @property
    def is_drained(self) -> bool:
        return not self._calls

    async def drain(self) -> None:
        await self._drained.wait()

    async def aclose(self) -> None:
        self.refuse()
        for queued_call in self._queue.queued_calls():
            self._give_up(queued_call, PoolClosed())
        self._deadline_timer.cancel()
        if self._keeper is not None:
            await self._background.stop(self._keeper)
        await self._supervisor.aclose()

    # --- one call

    def _failed(self, call: Call, error: ExecutionError) -> None:
        """Draws the conclusions for the program of a call that has failed."""
        key = call.program.quarantine_key
        if isinstance(error, WorkerCrashed):
            if error.blamed is not None and not error.is_counted:
                self._quarantine.killed(error.blamed, is_late=error.blamed != key)
            elif not error.is_ours and not error.is_counted:
                self._quarantine.killed(key)
            self._quarantine.undecided(key, call.execution_id)
        elif error.started and not isinstance(error, (ExecutionTimeout, PoolClosed)):
            self._quarantine.survived(key)
        else:
            self._quarantine.undecided(key, call.execution_id)

    def _admit(self, queued_call: QueuedCall) -> None:
        """Gives the call to a worker, or lets it wait for one.

        Raises:
            PoolOverloaded: it cannot wait, or not long enough.
        """
        call, now = queued_call.call, self._loop.time()
        queued_call.give_up_at = min(now + self._checkout_timeout_s, call.deadline)
        if self._queue.can_pass(queued_call) and self._can_begin():
            slot = self._state.take(call.session_id, call.program.definition)
            if slot is None and not queued_call.was_accepted and not self._loads.may_load:
                self._shed(queued_call, self._queue.make_room(queued_call, self._queue_limit))
            call.is_accepted = True
            self._begin(queued_call, slot)
            return
        queued_call.since = _perf_counter()
        if queued_call.was_accepted:
            self._queue.push_over_limit(queued_call)
        else:
            self._push_new(queued_call, now)
            call.is_accepted = True
        self._deadline_timer.set(queued_call.give_up_at)
        if self._idle_runs.count:
            self._idle_runs.make_room(
                queued_call, is_short=self._real_calls < self._concurrency and self._is_short_of_workers()
            )

    @property
    def _queue_limit(self) -> int:
        """The number of calls that may wait; those that a load will serve have no place in the queue."""
        limit = self._limit
        return limit + self._loads.served if self._queue.aside.length else limit

    def _push_new(self, queued_call: QueuedCall, now: float) -> None:
        """Lets a new call wait if the queue has room and the wait is short enough. Raises PoolOverloaded."""
        call = queued_call.call
        if now + self._queue.waiting * self._service_time_s > call.deadline:  # too long for one worker: for all?
            ahead_s = self._wait_s(queued_call, self._queue.ahead_of(queued_call))
            if now + ahead_s > call.deadline:
                raise self._overloaded(
                    queued_call, f"the wait is {ahead_s:.3g} s at the moment, longer than the deadline allows"
                )
        self._shed(queued_call, self._queue.push(queued_call, self._queue_limit))

    def _shed(self, queued_call: QueuedCall, shed: QueuedCall | None) -> None:
        """Ends the call that does not fit. Raises PoolOverloaded if that is `queued_call`."""
        if shed is queued_call:
            raise self._overloaded(queued_call, f"the queue is full ({self._options.queue_limit})")
        if shed is not None:
            self._resolve(shed, self._overloaded(shed, "the queue is full, and this session fills most of it"))

    def _begin(self, queued_call: QueuedCall, slot: WorkerSlot | None) -> None:
        """Gives the call to an idle slot that has loaded its program, or lets it wait until one has."""
        if queued_call.max_concurrency:
            self._queue.began(queued_call)
        if slot is None:
            self._loads.let_wait(queued_call)
        else:
            self._begin_on(queued_call, slot)

    def _begin_on(self, queued_call: QueuedCall, slot: WorkerSlot) -> None:
        assert isinstance(queued_call, _EnginesCall)
        queued_call.slot = slot
        queued_call.call.is_cold = slot.executions <= COLD_EXECUTIONS or queued_call.call.load_s > 0
        self._engage(queued_call)
        try:
            self._supervisor.give(slot, queued_call.call, queued_call.ended)
        except WorkerLost:
            self._release(queued_call)
            queued_call.slot, queued_call.since = None, _perf_counter()
            self._queue.push_back(queued_call)
            self._deadline_timer.set(queued_call.give_up_at)
            self._serve_queue()  # each time round takes a dead worker out of the pool
        except ExecutionError as error:
            self.end(queued_call, error)
        except Exception as error:  # nothing is known of the worker, so it is replaced
            self._release(queued_call)
            queued_call.slot = None
            if queued_call.max_concurrency:
                self._queue.ended(queued_call)
            self._supervisor.kill(slot, ExitCause.CANCELLED)
            self._resolve(queued_call, error)

    def end(self, queued_call: QueuedCall, outcome: Result | Exception) -> None:
        """Ends a call that has run. Its worker gets the next call first, so that it does not wait for the caller."""
        slot, queued_call.slot = queued_call.slot, None
        if slot is None:
            return  # the worker was given up, and the call has ended with it
        if queued_call.max_concurrency:
            self._queue.ended(queued_call)
        try:
            self._release(queued_call)
            self._supervisor.give_back(slot)
            self._serve_queue()
        finally:
            self._resolve(queued_call, outcome)

    def _resolve(self, queued_call: QueuedCall, outcome: Result | Exception) -> None:
        """Ends a call. Its caller is told of an error in a turn of its own, since that may begin the call elsewhere."""
        if queued_call.is_over:
            return  # nobody waits for it any more
        queued_call.is_over = True
        if isinstance(outcome, Result):
            self._tell(queued_call, outcome)
        else:
            self._loop.call_soon(self._tell, queued_call, outcome)

    def _tell(self, queued_call: QueuedCall, outcome: Result | Exception) -> None:
        """Draws the conclusions from a call's outcome, and tells its caller."""
        call, on_outcome, queued_call.on_outcome = queued_call.call, queued_call.on_outcome, None
        if on_outcome is None:
            return
        call.entry = None
        self._count_end()
        if isinstance(outcome, Result):
            now = outcome.told_at = _perf_counter()
            self._quarantine.survived(call.program.quarantine_key)
            if not call.is_background:
                waited_s = call.backpressure_s - queued_call.backpressure_before_s
                self._learn(now - call.dispatched_at - waited_s)
        elif isinstance(outcome, ExecutionError):
            self._failed(call, outcome)
        else:
            self._quarantine.undecided(call.program.quarantine_key, call.execution_id)
        try:
            on_outcome(outcome)
        except Exception:  # a fault of the caller's must not end what the worker's reply came through
            _log.exception("the outcome of a call could not be told", **call.log_ids())

    def _count_end(self) -> None:
        self._calls -= 1
        if self._refuses and not self._calls:
            self._drained.set()

    def _drop(self, queued_call: QueuedCall) -> None:
        """Drops a call that nobody waits for any more."""
        if queued_call.slot is not None:
            self._supervisor.end_call(queued_call.slot, queued_call.call, ExitCause.CANCELLED)
        else:
            self._queue.remove(queued_call)

    def _learn(self, seconds: float) -> None:
        self._service_time_s = average_with(self._service_time_s, seconds)

    def _workers_changed(self) -> None:
        self._serve_queue()
        if self._on_down is not None and self.is_down and self._queue.waiting:
            self._on_down()

    # --- the queue

    def _serve_queue(self) -> None:
        """Begins every queued call that can be served now."""
        while self._can_begin() and self._serve_next():
            pass

    def _serve_next(self) -> bool:
        """Begins the next queued call, as can be done now. Returns whether there was any."""
        if self._queue.aside.length:
            ready = self._loads.take_turn()
            if ready is not None:
                self._begin_on(*ready)
                return True
            if not self._can_begin():
                return False
        if self.hear is not None:
            self.hear()  # a call that has waited may belong to another pool by now
        queued_call = self._queue.pop()
        if queued_call is None:
            return False
        if not queued_call.is_over:
            call = queued_call.call
            call.queued_s += _perf_counter() - queued_call.since
            self._begin(queued_call, self._state.take(call.session_id, call.program.definition))
        return True

    def _expire(self, now: float) -> float:
        """Ends the calls that have waited too long. Returns the time at which the next one will have."""
        next_one = math.inf
        for queued_call in self._queue.queued_calls():
            if queued_call.give_up_at > now:
                next_one = min(next_one, queued_call.give_up_at)
                continue
            error = CheckoutTimeout(self._why_waited(queued_call), retry_after_s=self._retry_after_s(queued_call))
            self._give_up(queued_call, error)
        return next_one

    def _give_up(self, queued_call: QueuedCall, error: Exception) -> None:
        was_aside = queued_call.is_aside
        if self._queue.remove(queued_call):
            if was_aside:
                self._loads.end_wait(queued_call)
            else:
                queued_call.call.queued_s += _perf_counter() - queued_call.since
            self._resolve(queued_call, error)

    def _why_waited(self, queued_call: QueuedCall) -> str:
        waited_s, limit = _perf_counter() - queued_call.since, queued_call.max_concurrency
        if queued_call.is_aside and queued_call.call.is_loading:
            return f"no worker could load the program within {waited_s:.3g} s, since as many load others as may at once"
        if self._queue.is_in_room(queued_call):
            return f"the program runs {limit} at once (max_concurrency), and none of them ended within {waited_s:.3g} s"
        if self.is_down:
            why = f"GET /pools/{self.version} says why"
            return f"the pool has no worker and could not start one within {waited_s:.3g} s: {why}"
        return f"no worker came free within {waited_s:.3g} s"

    def _wait_s(self, queued_call: QueuedCall, depth: int) -> float:
        """Seconds that `depth` calls ahead take: depth × service time ÷ calls that run at once (Little's law)."""
        at_once = self._concurrency
        if queued_call.max_concurrency:
            at_once = min(at_once, queued_call.max_concurrency)
        return depth * self._service_time_s / max(1, at_once)

    def _retry_after_s(self, queued_call: QueuedCall) -> float:
        return max(1.0, math.ceil(self._wait_s(queued_call, self._queue.depth(queued_call))))

    def _overloaded(self, queued_call: QueuedCall, detail: str) -> PoolOverloaded:
        return PoolOverloaded(detail, retry_after_s=self._retry_after_s(queued_call))
