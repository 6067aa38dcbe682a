"""V1, the old engine: every operation goes through one coordinator, one at a time, however many workers there are.

This is what V2 replaces, kept as it was in what it promises and in what it costs; only its faults were not kept
(see docs/adr).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from pools.calls import Call, Result
from pools.engine import Engine, PoolOptions
from pools.errors import ExecutionError, Withdrawn, WorkerLost
from pools.events import EventKind, EventSink, EventSource
from pools.exits import ExitCause
from pools.fair_queue import Ticket
from pools.protocol import PoolObserver
from pools.spawner import Spawner
from pools.state import Worker
from pools.tasks import TaskOwner


class SessionPool(Engine):
    """A mailbox and a coordinator that talks to the workers for everyone."""

    def __init__(self, version: str, options: PoolOptions, spawner: Spawner, observer: PoolObserver) -> None:
        super().__init__(version, options, spawner, observer)
        self._work = asyncio.Event()
        self._operations: dict[Ticket, Worker] = {}
        self._resumed: deque[_Turn] = deque()
        self._tasks = TaskOwner(f"coordinator of {version}")

    async def start(self) -> None:
        self._tasks.start(self._coordinate())
        await super().start()

    async def aclose(self) -> None:
        await super().aclose()
        await self._tasks.aclose()

    async def _run_once(self, call: Call) -> Result:
        result: Result = await self._wait_in_queue(call)
        return result

    async def _coordinate(self) -> None:
        """The one that does it all, one operation at a time."""
        while True:
            self._work.clear()
            while (operation := self._next_operation()) is not None:
                await operation
            await self._work.wait()

    def _next_operation(self) -> Coroutine[Any, Any, None] | None:
        if self._resumed:
            return self._resumed.popleft().take()
        if not self._state.idle or (ticket := self._next_in_queue()) is None:
            return None
        worker = self._state.take(ticket.call.session_id)
        assert worker is not None
        return self._operate(ticket, worker) if ticket.call.events is None else self._begin_stream(ticket, worker)

    async def _begin_stream(self, ticket: Ticket, worker: Worker) -> None:
        assert ticket.call.events is not None
        turn = _Turn(ticket.call.events, self._resume)
        self._tasks.start(self._stream(ticket, worker, turn))
        await turn.wait()

    async def _stream(self, ticket: Ticket, worker: Worker, turn: "_Turn") -> None:
        listener, ticket.call.events = ticket.call.events, turn
        try:
            await self._operate(ticket, worker)
        finally:
            ticket.call.events = listener
            turn.end()

    def _resume(self, turn: "_Turn") -> None:
        self._resumed.append(turn)
        self._work.set()

    async def _operate(self, ticket: Ticket, worker: Worker) -> None:
        self._operations[ticket] = worker
        try:
            result = await self._crew.run(worker, ticket.call)
        except (ExecutionError, Withdrawn, WorkerLost) as error:
            if not ticket.turn.done():
                ticket.turn.set_exception(error)
        else:
            if not ticket.turn.done():
                ticket.turn.set_result(result)
        finally:
            del self._operations[ticket]
            self._crew.give_back(worker)

    def _serve_queue(self) -> None:
        self._work.set()

    def _abandoned(self, ticket: Ticket) -> None:
        worker = self._operations.get(ticket)
        if worker is not None:
            self._crew.kill(worker, ExitCause.CANCELLED)

    @property
    def _concurrency(self) -> int:
        return 1


class _Turn:
    """The coordinator's attention to one stream: lost while its client takes no events, so that nobody waits for that.

    To the worker it is the sink, to the real sink the source: a stream that may go on waits until the coordinator comes
    round to it.
    """

    def __init__(self, sink: EventSink, on_resume: Callable[["_Turn"], None]) -> None:
        self._sink = sink
        self._on_resume = on_resume
        self._source: EventSource | None = None
        self._lost = asyncio.Event()
        self._is_over = False

    # --- towards the worker

    @property
    def has_taken(self) -> bool:
        return self._sink.has_taken

    def began(self, source: EventSource) -> None:
        self._source = source
        self._sink.began(self)

    def put(self, kind: EventKind, data: msgspec.Raw) -> None:
        self._sink.put(kind, data)

    # --- towards the real sink

    def pause(self) -> None:
        assert self._source is not None
        self._source.pause()
        self._lost.set()

    def resume(self) -> None:
        if not self._is_over:
            self._on_resume(self)

    # --- towards the coordinator

    async def take(self) -> None:
        """Lets the stream go on."""
        assert self._source is not None
        if not self._is_over:
            self._lost.clear()
            self._source.resume()
            await self._lost.wait()

    async def wait(self) -> None:
        """Until the stream is over or has to wait for its client."""
        await self._lost.wait()

    def end(self) -> None:
        """The stream is over."""
        self._is_over = True
        self._lost.set()
