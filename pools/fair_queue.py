"""Who waits for a worker: bounded, and fair between sessions."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from pools.calls import Call


@dataclass(slots=True, eq=False)
class Ticket:
    """A call that waits. `turn` is resolved by the engine when the wait is over, one way or the other."""

    call: Call
    turn: asyncio.Future[Any]
    since: float
    """When the wait began, by `time.perf_counter`."""
    lane: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.lane = self.call.session_id


class FairQueue:
    """Round robin over sessions, first come first served within one; calls without a session share a lane."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lanes: OrderedDict[str | None, OrderedDict[int, Ticket]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, ticket: Ticket) -> Ticket | None:
        """Lets `ticket` wait; returns what does not fit: None, the ticket itself, or another that makes room for it.

        Where the queue is full, the newcomer takes the place of the longest lane's last, if that lane stays no
        shorter than its own: who floods the queue is shed, not who comes after.
        """
        shed = None
        if self._length >= self._limit:
            shed = self._last_of_longest_lane(ticket)
            if shed is ticket:
                return shed
            self.remove(shed)
        self._lanes.setdefault(ticket.lane, OrderedDict())[id(ticket)] = ticket
        self._length += 1
        return shed

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
        tickets = self._lanes.get(ticket.lane)
        if tickets is None or tickets.pop(id(ticket), None) is None:
            return False
        self._length -= 1
        if not tickets:
            del self._lanes[ticket.lane]
        return True

    def ahead_of(self, lane: str | None) -> int:
        """How many are served before one who now joins `lane`: in each lane as many as wait in its own, at most."""
        return min(self._length, (len(self._lanes.get(lane, ())) + 1) * len(self._lanes))

    def tickets(self) -> list[Ticket]:
        """Everyone who waits, lane by lane."""
        return [ticket for tickets in self._lanes.values() for ticket in tickets.values()]

    def _last_of_longest_lane(self, newcomer: Ticket) -> Ticket:
        longest = max(self._lanes.values(), key=len, default=None)
        own = len(self._lanes.get(newcomer.lane, ()))
        if longest is None or len(longest) <= own + 1:
            return newcomer
        return next(reversed(longest.values()))
