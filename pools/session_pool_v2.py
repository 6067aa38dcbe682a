"""V2, the new engine: the caller checks a worker out, talks to it directly and checks it in; N workers run N calls."""

from pools.calls import Call, Result
from pools.engine import Engine
from pools.fair_queue import Ticket
from pools.state import Worker


class SessionPoolV2(Engine):
    """No coordinator: whoever calls does the talking."""

    async def _run_once(self, call: Call) -> Result:
        worker = await self._check_out(call)
        try:
            return await self._crew.run(worker, call)
        finally:
            self._check_in(worker)

    async def _check_out(self, call: Call) -> Worker:
        """An idle worker at once, or the next that comes free for this call."""
        worker = self._state.take(call.session_id) if not self._queue else None
        if worker is None:
            worker = await self._wait_in_queue(call)
        return worker

    def _check_in(self, worker: Worker) -> None:
        self._crew.give_back(worker)
        if self._queue:
            self._serve_queue()

    def _serve_queue(self) -> None:
        while self._state.idle and (ticket := self._next_in_queue()) is not None:
            ticket.turn.set_result(self._state.take(ticket.call.session_id))

    def _abandoned(self, ticket: Ticket) -> None:
        turn = ticket.turn
        if not turn.cancelled() and turn.exception() is None:
            self._check_in(turn.result())

    @property
    def _concurrency(self) -> int:
        return self._state.live
