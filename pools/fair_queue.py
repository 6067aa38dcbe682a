"""A queue of calls that wait for a worker: bounded, and fair between sessions."""

from collections import OrderedDict

from pools.calls import Call, OnOutcome
from pools.state import WorkerSlot


class QueuedCall:
    """A call on its way to a worker and back, which the engine ends, one way or the other."""

    def __init__(self, call: Call, on_outcome: OnOutcome) -> None:
        """Calls `on_outcome` once, with the result or an error, unless the call is left before."""
        self.call = call
        self.is_over = False
        """Set once the call has its outcome, or nobody waits for one any more."""
        self.on_outcome: OnOutcome | None = on_outcome
        """None once nobody waits for the outcome."""
        self.backpressure_before_s = call.backpressure_s
        self.since = 0.0
        """Time at which the wait in the queue began, by `time.perf_counter`."""
        self.give_up_at = 0.0
        """Time at which the wait in the queue ends at the latest, by the event loop's clock."""
        self.left_s = 0.0
        """The rest of that wait while a load is waited for, which is no part of it, in seconds."""
        self.is_aside = False
        """True while the call waits for its program to be loaded (`pools.load_rooms`)."""
        self.slot: WorkerSlot | None = None
        """The slot that runs the call."""
        self.lane = call.session_id
        """The lane of the queue that the call waits in."""
        self.max_concurrency = call.program.max_concurrency
        """The limit of its program; 0 is none."""
        self.was_accepted = call.is_accepted
        """True if a pool accepted the call before: it moved here, or its worker died. Such a call is never shed."""


class FairQueue:
    """Round robin over lanes, first come first served within one.

    A session has a lane; calls without a session share one.
    """

    def __init__(self) -> None:
        self._lanes: OrderedDict[str | None, OrderedDict[int, QueuedCall]] = OrderedDict()
        self.length = 0
        """The number of calls that wait."""

    def push(self, queued_call: QueuedCall, limit: int) -> QueuedCall | None:
        """Lets `queued_call` wait; returns the call that does not fit: none, this one, or another that makes room.

        If `limit` calls wait already, the newcomer takes the place of the longest lane's last call that may be shed, if
        that lane stays no shorter than the newcomer's: who floods the queue is shed, not who comes after.
        """
        shed = None
        if self.length >= limit:
            shed = self.shed_for(queued_call, self.lane_length(queued_call.lane))
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
        self._lanes.move_to_end(queued_call.lane, last=False)

    def _join(self, queued_call: QueuedCall) -> OrderedDict[int, QueuedCall]:
        lane = self._lanes.get(queued_call.lane)
        if lane is None:
            lane = self._lanes[queued_call.lane] = OrderedDict()
        lane[id(queued_call)] = queued_call
        self.length += 1
        return lane

    def pop(self) -> QueuedCall | None:
        """The next whose turn it is."""
        if not self.length:
            return None
        lane, queued_calls = next(iter(self._lanes.items()))
        _, queued_call = queued_calls.popitem(last=False)
        self.length -= 1
        if queued_calls:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return queued_call

    def first(self) -> QueuedCall:
        """Looks at the next whose turn it is; there must be one."""
        return next(iter(next(iter(self._lanes.values())).values()))

    def remove(self, queued_call: QueuedCall) -> bool:
        """Takes `queued_call` out; False if it does not wait (any more)."""
        queued_calls = self._lanes.get(queued_call.lane)
        if queued_calls is None or queued_calls.pop(id(queued_call), None) is None:
            return False
        self.length -= 1
        if not queued_calls:
            del self._lanes[queued_call.lane]
        return True

    def ahead_of(self, lane: str | None) -> int:
        """The number of calls served before one that joins `lane` now: in each lane at most as many as in its own."""
        return min(self.length, (self.lane_length(lane) + 1) * len(self._lanes))

    def queued_calls(self) -> list[QueuedCall]:
        """Everyone who waits, lane by lane."""
        return [queued_call for queued_calls in self._lanes.values() for queued_call in queued_calls.values()]

    def lane_length(self, lane: str | None) -> int:
        """The number of calls in a lane."""
        return len(self._lanes.get(lane, ()))

    def longest_lane(self) -> int:
        """The number of calls in the longest lane."""
        return max((len(lane) for lane in self._lanes.values()), default=0)

    def shed_for(self, newcomer: QueuedCall, own: int) -> QueuedCall:
        """Finds the call that makes room for `newcomer`, in whose lane are `own` calls; the newcomer if none does."""
        longest = max(self._lanes.values(), key=len, default=None)
        if longest is None or len(longest) <= own + 1:
            return newcomer
        return next((one for one in reversed(longest.values()) if not one.was_accepted), newcomer)
