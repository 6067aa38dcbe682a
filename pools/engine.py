"""What both engines share: admission, the queue and its deadlines, the one retry, drain.

An engine adds how a call that may run gets to a worker.

One call, from the top:

    closed?       ──► PoolClosed
    quarantined?  ──► ProgramQuarantined
    queue full, or the deadline cannot be met  ──► PoolOverloaded, at once
    no worker in time                          ──► CheckoutTimeout
    the worker died: idempotent, for the first time and before any event? once more : WorkerCrashed
"""

import abc
import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pools.calls import Call, Result
from pools.crew import Crew, RecycleLimits
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
from pools.fair_queue import FairQueue, Ticket
from pools.protocol import PoolObserver, PoolSnapshot
from pools.quarantine import Quarantine
from pools.spawner import Spawner
from pools.state import PoolState, WorkerState

_SERVICE_TIME_WEIGHT = 0.1
"""Of the newest call in the moving average of service times."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How big a pool is and how long its callers wait; times in seconds."""

    size: int
    queue_limit: int = 1000
    checkout_timeout_s: float = 5.0
    recycle: RecycleLimits = field(default_factory=RecycleLimits)


class Engine(abc.ABC):
    """A pool (see `pools.protocol.Pool`) but for how a call reaches a worker."""

    def __init__(self, version: str, options: PoolOptions, spawner: Spawner, observer: PoolObserver) -> None:
        self.version = version
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._state = PoolState(options.size, spare=max(1, options.size // 4))
        self._crew = Crew(version, self._state, spawner, observer, options.recycle, self._workers_changed)
        self._queue = FairQueue(options.queue_limit)
        self._quarantine = Quarantine()
        self._service_time_s = 0.0
        self._calls = 0
        self._refuses = False
        self._drained = asyncio.Event()
        self._drained.set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state!r} waiting={len(self._queue)} calls={self._calls}>"

    # --- what an engine adds

    @abc.abstractmethod
    async def _run_once(self, call: Call) -> Result:
        """Gets `call` to a worker and its answer back. Raises WorkerLost where the worker was dead before."""

    @abc.abstractmethod
    def _serve_queue(self) -> None:
        """Whoever can be served now is served."""

    @property
    @abc.abstractmethod
    def _concurrency(self) -> int:
        """How many calls run at once, at most."""

    # --- the protocol

    async def start(self) -> None:
        await self._crew.start()

    async def execute(self, call: Call) -> Result:
        if self._refuses:
            raise PoolClosed
        self._quarantine.admit(call.program.key, call.execution_id)
        self._calls += 1
        try:
            try:
                return await self._attempt(call)
            except WorkerCrashed:
                if not call.is_repeatable:
                    raise
                return await self._attempt(call)
        finally:
            self._calls -= 1
            if self._refuses and not self._calls:
                self._drained.set()

    def withdraw(self, which: Callable[[Call], bool]) -> int:
        withdrawn = [ticket for ticket in self._queue.tickets() if which(ticket.call)]
        for ticket in withdrawn:
            self._give_up(ticket, Withdrawn())
        return len(withdrawn)

    def withdraw_running(self, which: Callable[[Call], bool]) -> int:
        return self._crew.withdraw(which)

    @property
    def is_ready(self) -> bool:
        return self._state.live > 0

    async def snapshot(self) -> PoolSnapshot:
        workers, cpu_s = await self._crew.snapshots()
        counts = self._state.counts()
        return PoolSnapshot(
            version=self.version,
            size=self._options.size,
            busy=counts[WorkerState.BUSY],
            idle=counts[WorkerState.IDLE],
            starting=counts[WorkerState.STARTING],
            stopping=counts[WorkerState.STOPPING],
            queue_depth=len(self._queue),
            utilization=counts[WorkerState.BUSY] / self._options.size,
            dispatched_total=self._crew.dispatched,
            worker_starts_total=self._crew.starts,
            worker_exits_total=dict(self._crew.exits),
            service_time_s=self._service_time_s,
            cpu_seconds_total=cpu_s,
            workers=workers,
        )

    def refuse(self) -> None:
        self._refuses = True
        if self._calls:
            self._drained.clear()

    async def drain(self) -> None:
        await self._drained.wait()

    async def aclose(self) -> None:
        self.refuse()
        for ticket in self._queue.tickets():
            self._give_up(ticket, PoolClosed())
        await self._crew.aclose()

    # --- one call

    async def _attempt(self, call: Call) -> Result:
        """Runs `call` once and draws the conclusions for its program and for the queue's estimates."""
        key = call.program.key
        began, waited_before = time.perf_counter(), call.queued_s + call.held_s
        try:
            result = await self._run_on_a_live_worker(call)
        except WorkerCrashed:
            self._quarantine.killed(key)
            raise
        except ExecutionError as error:
            if error.started and not isinstance(error, (ExecutionTimeout, PoolClosed)):
                self._quarantine.survived(key)
            else:
                self._quarantine.undecided(key, call.execution_id)
            raise
        except BaseException:
            self._quarantine.undecided(key, call.execution_id)
            raise
        self._quarantine.survived(key)
        self._learn(time.perf_counter() - began - (call.queued_s + call.held_s - waited_before))
        return result

    async def _run_on_a_live_worker(self, call: Call) -> Result:
        while True:
            try:
                return await self._run_once(call)
            except WorkerLost:
                continue  # each time round takes a dead worker out of the pool

    def _learn(self, seconds: float) -> None:
        if self._service_time_s == 0.0:
            self._service_time_s = seconds
        else:
            self._service_time_s += _SERVICE_TIME_WEIGHT * (seconds - self._service_time_s)

    # --- the queue

    async def _wait_in_queue(self, call: Call) -> Any:
        """Waits for what the engine resolves the ticket's turn with.

        Raises:
            PoolOverloaded, CheckoutTimeout, PoolClosed, Withdrawn: the wait is over without it.
        """
        now = self._loop.time()
        ahead_s = self._wait_s(self._queue.ahead_of(call.session_id))
        if now + ahead_s > call.deadline:
            raise self._overloaded(f"the wait is {ahead_s:.3g} s at the moment, longer than the deadline allows")
        ticket = Ticket(call, self._loop.create_future(), time.perf_counter())
        shed = self._queue.push(ticket)
        if shed is ticket:
            raise self._overloaded(f"the queue is full ({self._options.queue_limit})")
        if shed is not None:
            shed.turn.set_exception(self._overloaded("the queue is full, and this session fills most of it"))
        give_up_at = min(now + self._options.checkout_timeout_s, call.deadline)
        timer = self._loop.call_at(give_up_at, self._expire, ticket)
        self._serve_queue()
        try:
            return await ticket.turn
        except asyncio.CancelledError:
            if not self._queue.remove(ticket):
                self._abandoned(ticket)
            raise
        finally:
            timer.cancel()

    @abc.abstractmethod
    def _abandoned(self, ticket: Ticket) -> None:
        """Its caller went away after its turn had come."""

    def _next_in_queue(self) -> Ticket | None:
        """The next ticket whose caller still waits."""
        while (ticket := self._queue.pop()) is not None:
            if not ticket.turn.done():
                ticket.call.queued_s += time.perf_counter() - ticket.since
                return ticket
        return None

    def _expire(self, ticket: Ticket) -> None:
        waited_s = time.perf_counter() - ticket.since
        self._give_up(
            ticket,
            CheckoutTimeout(f"no worker came free within {waited_s:.3g} s", retry_after_s=self._retry_after_s()),
        )

    def _give_up(self, ticket: Ticket, error: Exception) -> None:
        if self._queue.remove(ticket) and not ticket.turn.done():
            ticket.call.queued_s += time.perf_counter() - ticket.since
            ticket.turn.set_exception(error)

    def _wait_s(self, depth: int) -> float:
        """How long the queue takes to serve `depth` calls: depth × service time ÷ workers (Little's law)."""
        return depth * self._service_time_s / max(1, self._concurrency)

    def _retry_after_s(self) -> float:
        return max(1.0, math.ceil(self._wait_s(len(self._queue))))

    def _overloaded(self, detail: str) -> PoolOverloaded:
        return PoolOverloaded(detail, retry_after_s=self._retry_after_s())

    def _workers_changed(self) -> None:
        self._serve_queue()
