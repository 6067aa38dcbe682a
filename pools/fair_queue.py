"""A queue of calls that wait for a worker: bounded, and fair between sessions."""

import asyncio
from collections import OrderedDict

from pools.calls import Call, Result
from pools.state import WorkerSlot


class QueuedCall:
    """A call on its way to a worker and back; `answer` is resolved by the engine, one way or the other."""

    def __init__(self, call: Call, answer: asyncio.Future[Result]) -> None:
        self.call = call
        self.answer = answer
        self.since = 0.0
        """Time at which the wait in the queue began, by `time.perf_counter`."""
        self.give_up_at = 0.0
        """Time at which the wait in the queue ends at the latest, by the event loop's clock."""
        self.slot: WorkerSlot | None = None
        """The slot that runs the call."""
        self.was_accepted = call.is_accepted
        """True if a pool accepted the call before: it moved here, or its worker died. Such a call is never shed."""


class FairQueue:
    """Round robin over sessions, first come first served within one; calls without a session share a lane."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str | None, OrderedDict[int, QueuedCall]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, queued_call: QueuedCall, limit: int) -> QueuedCall | None:
        """Lets `queued_call` wait; returns the call that does not fit: none, this one, or another that makes room.

        If `limit` calls wait already, the newcomer takes the place of the longest lane's last call that may be shed, if
        that lane stays no shorter than the newcomer's: who floods the queue is shed, not who comes after.
        """
        shed = None
        if self._length >= limit:
            shed = self._last_of_longest_lane(queued_call)
            if shed is queued_call:
                return shed
            self.remove(shed)
        self._join(queued_call)
        return shed

    def push_over_limit(self, queued_call: QueuedCall) -> None:
        """Lets a call wait that a pool has accepted before, however many wait already."""
        self._join(queued_call)

    def push_back(self, queued_call: QueuedCall) -> None:
        """Lets one that was popped wait on: it is the next."""
        self._join(queued_call).move_to_end(id(queued_call), last=False)
        self._lanes.move_to_end(queued_call.call.session_id, last=False)

    def _join(self, queued_call: QueuedCall) -> OrderedDict[int, QueuedCall]:
        lane = self._lanes.get(queued_call.call.session_id)
        if lane is None:
            lane = self._lanes[queued_call.call.session_id] = OrderedDict()
        lane[id(queued_call)] = queued_call
        self._length += 1
        return lane

    def pop(self) -> QueuedCall | None:
        """The next whose turn it is."""
        if not self._length:
            return None
        lane, queued_calls = next(iter(self._lanes.items()))
        _, queued_call = queued_calls.popitem(last=False)
        self._length -= 1
        if queued_calls:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return queued_call

    def remove(self, queued_call: QueuedCall) -> bool:
        """Takes `queued_call` out; False where it does not wait (any more)."""
        queued_calls = self._lanes.get(queued_call.call.session_id)
        if queued_calls is None or queued_calls.pop(id(queued_call), None) is None:
            return False
        self._length -= 1
        if not queued_calls:
            del self._lanes[queued_call.call.session_id]
        return True

    def ahead_of(self, lane: str | None) -> int:
        """The number of calls served before one that joins `lane` now: in each lane at most as many as in its own."""
        return min(self._length, (len(self._lanes.get(lane, ())) + 1) * len(self._lanes))

    def queued_calls(self) -> list[QueuedCall]:
        """Everyone who waits, lane by lane."""
        return [queued_call for queued_calls in self._lanes.values() for queued_call in queued_calls.values()]

    def _last_of_longest_lane(self, newcomer: QueuedCall) -> QueuedCall:
        longest = max(self._lanes.values(), key=len, default=None)
        own = len(self._lanes.get(newcomer.call.session_id, ()))
        if longest is None or len(longest) <= own + 1:
            return newcomer
        return next((one for one in reversed(longest.values()) if not one.was_accepted), newcomer)
