"""The queue: bounded, fair between sessions, exact about who waits."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pools.calls import Call, Program
from pools.fair_queue import FairQueue, QueuedCall
from poolshift.worker.definitions import Definition, Signature

PROGRAM = Program("1", "p", Definition("python", Signature((), ())))


def queued_call(lane: str | None) -> QueuedCall:
    return QueuedCall(Call("e", PROGRAM, b"{}", 0.0, lane), lambda _: None)


@pytest.mark.parametrize("limit", [0, 1, 5, 6])
def test_the_limit(limit: int) -> None:
    """The queue takes calls of one session up to the limit, and hands the rest back."""
    queue = FairQueue()
    shed = [queue.push(one, limit) is one for one in [queued_call("a") for _ in range(6)]]
    assert shed == [False] * min(limit, 6) + [True] * (6 - min(limit, 6))
    assert queue.length == min(limit, 6)


def test_sessions_take_turns() -> None:
    """Round robin over sessions, first come first served within one."""
    queue = FairQueue()
    queued_calls = [queued_call(lane) for lane in ("a", "a", "a", "b", None, "b")]
    for one in queued_calls:
        assert queue.push(one, 10) is None
    assert [queue.pop() for _ in range(6)] == [queued_calls[index] for index in (0, 3, 4, 1, 5, 2)]
    assert queue.pop() is None


def test_the_newcomer_takes_the_place_of_who_floods() -> None:
    """A full queue sheds the longest lane's last, and never for a lane that would be as long."""
    queue = FairQueue()
    flood = [queued_call("flood") for _ in range(4)]
    for one in flood:
        queue.push(one, 4)
    assert queue.push(queued_call("modest"), 4) is flood[3]
    assert queue.push(queued_call("modest"), 4) is not None
    assert queue.length == 4


class QueueMachine(RuleBasedStateMachine):
    """Against a plain list: nobody is lost, nobody is served twice, nobody is overtaken within a lane."""

    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()
        self.model: list[QueuedCall] = []

    @rule(target=waiting, lane=st.sampled_from(["a", "b", "c", None]))
    def push(self, lane: str | None) -> QueuedCall:
        one = queued_call(lane)
        shed = self.queue.push(one, 8)
        self.model.append(one)
        if shed is not None:
            assert len(self.model) == 9
            self.model.remove(shed)
        return one

    @rule()
    def pop(self) -> None:
        one = self.queue.pop()
        if one is None:
            assert not self.model
        else:
            assert one == next(other for other in self.model if other.call.session_id == one.call.session_id)
            self.model.remove(one)

    @rule()
    def pop_and_push_back(self) -> None:
        one = self.queue.pop()
        if one is not None:
            self.queue.push_back(one)
            assert self.queue.pop() is one
            self.queue.push_back(one)

    @rule(one=consumes(waiting))
    def remove(self, one: QueuedCall) -> None:
        assert self.queue.remove(one) == (one in self.model)
        if one in self.model:
            self.model.remove(one)

    @rule(lane=st.sampled_from(["a", "b", "new"]))
    def estimate(self, lane: str) -> None:
        assert 0 <= self.queue.ahead_of(lane) <= len(self.model)

    @invariant()
    def agrees(self) -> None:
        assert self.queue.length == len(self.model) <= 8
        assert set(self.queue.queued_calls()) == set(self.model)


TestQueue = QueueMachine.TestCase


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_an_accepted_call_is_never_shed(limit: int) -> None:
    """Accepted calls wait beyond the limit; a newcomer takes only the place of a call that may be shed."""
    queue = FairQueue()
    accepted = [queued_call("flood") for _ in range(6)]
    for one in accepted:
        one.was_accepted = True
        queue.push_over_limit(one)
    assert queue.length == 6
    newcomer = queued_call("another")
    assert queue.push(newcomer, limit) is newcomer
    new_one = queued_call("flood")
    assert queue.push(new_one, 7) is None
    assert queue.push(newcomer, 7) is new_one
    assert queue.queued_calls() == [*accepted, newcomer]
