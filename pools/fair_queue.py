"""A queue of calls that wait for a worker: bounded, and fair between sessions."""

from typing import cast

from pools.calls import Call, OnOutcome
from pools.chain import Chain, Link
from pools.state import WorkerSlot


class QueuedCall(Link):
    """A call on its way to a worker and back, which the engine ends, one way or the other."""

    def __init__(self, call: Call, on_outcome: OnOutcome) -> None:
        """Calls `on_outcome` once, with the result or an error, unless the call is left before."""
        super().__init__()
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


class _Lane(Link):
    """The calls of one session, which is a member of the round of lanes while a call waits in it."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name
        self.calls = Chain()

    def queued_calls(self) -> list[QueuedCall]:
        """Everyone who waits in the lane."""
        return [cast("QueuedCall", link) for link in self.calls.links()]


class FairQueue:
    """Round robin over lanes, first come first served within one.

    A session has a lane; calls without a session share one.
    """

    def __init__(self) -> None:
        self._lanes: dict[str | None, _Lane] = {}
        self._round = Chain()
        """The lanes in the order of their turns."""
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
        self.push_over_limit(queued_call)
        return shed

    def push_over_limit(self, queued_call: QueuedCall) -> None:
        """Lets a call wait that a pool has accepted before, however many wait already."""
        self._lane_of(queued_call).calls.append(queued_call)
        self.length += 1

    def push_back(self, queued_call: QueuedCall) -> None:
        """Lets one that was popped wait on: it is the next."""
        lane = self._lane_of(queued_call)
        lane.calls.prepend(queued_call)
        self.length += 1
        self._round.remove(lane)
        self._round.prepend(lane)

    def _lane_of(self, queued_call: QueuedCall) -> _Lane:
        lane = self._lanes.get(queued_call.lane)
        if lane is None:
            lane = self._lanes[queued_call.lane] = _Lane(queued_call.lane)
            self._round.append(lane)
        return lane

    def pop(self) -> QueuedCall | None:
        """The next whose turn it is."""
        if not self.length:
            return None
        lane = cast("_Lane", self._round.first)
        queued_call = cast("QueuedCall", lane.calls.first)
        self._take_out(queued_call, lane)
        if lane.calls.length and self._round.length > 1:
            self._round.remove(lane)
            self._round.append(lane)
        return queued_call

    def first(self) -> QueuedCall:
        """Looks at the next whose turn it is; there must be one."""
        return cast("QueuedCall", cast("_Lane", self._round.first).calls.first)

    def remove(self, queued_call: QueuedCall) -> bool:
        """Takes `queued_call` out; False if it does not wait (any more)."""
        lane = self._lanes.get(queued_call.lane)
        if lane is None or queued_call.chain is not lane.calls:
            return False
        self._take_out(queued_call, lane)
        return True

    def _take_out(self, queued_call: QueuedCall, lane: _Lane) -> None:
        lane.calls.remove(queued_call)
        self.length -= 1
        if not lane.calls.length:
            self._round.remove(lane)
            del self._lanes[lane.name]

    def ahead_of(self, lane: str | None) -> int:
        """The number of calls served before one that joins `lane` now: in each lane at most as many as in its own."""
        return min(self.length, (self.lane_length(lane) + 1) * len(self._lanes))

    def queued_calls(self) -> list[QueuedCall]:
        """Everyone who waits, lane by lane."""
        return [queued_call for lane in self._lanes_by_turn() for queued_call in lane.queued_calls()]

    def lane_length(self, lane: str | None) -> int:
        """The number of calls in a lane."""
        known = self._lanes.get(lane)
        return 0 if known is None else known.calls.length

    def longest_lane(self) -> int:
        """The number of calls in the longest lane."""
        return max((lane.calls.length for lane in self._lanes.values()), default=0)

    def shed_for(self, newcomer: QueuedCall, own: int) -> QueuedCall:
        """Finds the call that makes room for `newcomer`, in whose lane are `own` calls; the newcomer if none does."""
        longest = max(self._lanes_by_turn(), key=lambda lane: lane.calls.length, default=None)
        if longest is None or longest.calls.length <= own + 1:
            return newcomer
        return next((one for one in reversed(longest.queued_calls()) if not one.was_accepted), newcomer)

    def _lanes_by_turn(self) -> list[_Lane]:
        return [cast("_Lane", link) for link in self._round.links()]
