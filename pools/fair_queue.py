"""Who waits for a worker: bounded, and fair between sessions."""

import asyncio
from collections import OrderedDict

from pools.calls import Call, Result
from pools.state import Worker


class Ticket:
    """A call on its way to a worker and back; `answer` is resolved by the engine, one way or the other."""

    def __init__(self, call: Call, answer: asyncio.Future[Result]) -> None:
        self.call = call
        self.answer = answer
        self.since = 0.0
        """When its wait in the queue began, by `time.perf_counter`."""
        self.give_up_at = 0.0
        """When its wait in the queue ends at the latest, by the event loop's clock."""
        self.worker: Worker | None = None
        """Where it runs."""


class FairQueue:
    """Round robin over sessions, first come first served within one; calls without a session share a lane."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str | None, OrderedDict[int, Ticket]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, ticket: Ticket, limit: int) -> Ticket | None:
        """Lets `ticket` wait; returns what does not fit: None, the ticket itself, or another that makes room for it.

        Where `limit` wait already, the newcomer takes the place of the longest lane's last, if that lane stays no
        shorter than its own: who floods the queue is shed, not who comes after.
        """
        shed = None
        if self._length >= limit:
            shed = self._last_of_longest_lane(ticket)
            if shed is ticket:
                return shed
            self.remove(shed)
        self._join(ticket)
        return shed

    def push_back(self, ticket: Ticket) -> None:
        """Lets one that was popped wait on: it is the next."""
        self._join(ticket).move_to_end(id(ticket), last=False)
        self._lanes.move_to_end(ticket.call.session_id, last=False)

    def _join(self, ticket: Ticket) -> OrderedDict[int, Ticket]:
        lane = self._lanes.get(ticket.call.session_id)
        if lane is None:
            lane = self._lanes[ticket.call.session_id] = OrderedDict()
        lane[id(ticket)] = ticket
        self._length += 1
        return lane

    def pop(self) -> Ticket | None:
        """The next whose turn it is."""
        if not self._length:
            return None
        lane, tickets = next(iter(self._lanes.items()))
        _, ticket = tickets.popitem(last=False)
        self._length -= 1
        if tickets:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return ticket

    def remove(self, ticket: Ticket) -> bool:
        """Takes `ticket` out; False where it does not wait (any more)."""
        tickets = self._lanes.get(ticket.call.session_id)
        if tickets is None or tickets.pop(id(ticket), None) is None:
            return False
        self._length -= 1
        if not tickets:
            del self._lanes[ticket.call.session_id]
        return True

    def ahead_of(self, lane: str | None) -> int:
        """How many are served before one who now joins `lane`: in each lane as many as wait in its own, at most."""
        return min(self._length, (len(self._lanes.get(lane, ())) + 1) * len(self._lanes))

    def tickets(self) -> list[Ticket]:
        """Everyone who waits, lane by lane."""
        return [ticket for tickets in self._lanes.values() for ticket in tickets.values()]

    def _last_of_longest_lane(self, newcomer: Ticket) -> Ticket:
        longest = max(self._lanes.values(), key=len, default=None)
        own = len(self._lanes.get(newcomer.call.session_id, ()))
        if longest is None or len(longest) <= own + 1:
            return newcomer
        return next(reversed(longest.values()))
