"""V1, the old engine: every operation goes through one coordinator, one at a time, however many workers there are.

This is what V2 replaces, kept as it was in what it promises and in what it costs; only its faults were not kept
(see docs/adr).
"""

import asyncio

from pools.calls import Call, Result
from pools.engine import Engine, PoolOptions
from pools.errors import ExecutionError, Withdrawn, WorkerLost
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
        self._current: tuple[Ticket, Worker] | None = None
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
            while self._state.idle and (ticket := self._next_in_queue()) is not None:
                worker = self._state.take(ticket.call.session_id)
                assert worker is not None
                await self._operate(ticket, worker)
            await self._work.wait()

    async def _operate(self, ticket: Ticket, worker: Worker) -> None:
        self._current = ticket, worker
        try:
            result = await self._crew.run(worker, ticket.call)
        except (ExecutionError, Withdrawn, WorkerLost) as error:
            if not ticket.turn.done():
                ticket.turn.set_exception(error)
        else:
            if not ticket.turn.done():
                ticket.turn.set_result(result)
        finally:
            self._current = None
            self._crew.give_back(worker)

    def _serve_queue(self) -> None:
        self._work.set()

    def _abandoned(self, ticket: Ticket) -> None:
        if self._current is not None and self._current[0] is ticket:
            self._crew.kill(self._current[1], ExitCause.CANCELLED)

    @property
    def _concurrency(self) -> int:
        return 1
