"""The queue with limits by program: no program runs more than it may, and none holds another one up."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pools.call_queue import CallQueue
from pools.calls import Call, Program
from pools.fair_queue import QueuedCall
from poolshift.worker.definitions import Definition, Limits, Signature

QUEUE_LIMIT = 8


def program(name: str, max_concurrency: int | None) -> Program:
    limits = None if max_concurrency is None else Limits(max_concurrency=max_concurrency)
    return Program(name, name, Definition("python", Signature((), ()), limits=limits))


FREE, ONE, TWO = program("free", None), program("one", 1), program("two", 2)


def queued_call(of: Program = FREE, session_id: str | None = None) -> QueuedCall:
    return QueuedCall(Call("e", of, b"{}", 0.0, session_id), lambda _: None)


def begin(queue: CallQueue) -> QueuedCall | None:
    """Does what an engine does with a worker that has come free."""
    one = queue.pop()
    if one is not None and one.max_concurrency:
        queue.began(one)
    return one


def test_a_program_at_its_limit_holds_nobody_up() -> None:
    """However many of its calls wait, the calls of others come next, in their order."""
    queue = CallQueue()
    running = queued_call(ONE)
    assert queue.can_pass(running)
    queue.began(running)
    held = [queued_call(ONE) for _ in range(3)]
    for one in held:
        assert not queue.can_pass(one)
        assert queue.push(one, 10) is None
    free = queued_call(FREE)
    assert queue.can_pass(free)
    assert queue.push(free, 10) is None
    assert [begin(queue), begin(queue)] == [free, None]
    queue.ended(running)
    assert [begin(queue), begin(queue)] == [held[0], None]


def test_a_program_and_the_sessions_take_turns() -> None:
    """A program that comes free has one turn in the round, not all of them."""
    queue = CallQueue()
    limited = [queued_call(TWO) for _ in range(3)]
    free = [queued_call(FREE, "a") for _ in range(3)]
    for one in (*limited, *free):
        queue.push(one, 10)
    assert [begin(queue) for _ in range(5)] == [limited[0], free[0], limited[1], free[1], free[2]]


def test_sessions_take_turns_in_a_room() -> None:
    """A session that floods a program does not make another session's call of it wait to the end."""
    queue = CallQueue()
    flood = [queued_call(ONE, "flood") for _ in range(5)]
    for one in flood:
        queue.push(one, 10)
    modest = queued_call(ONE, "modest")
    queue.push(modest, 10)
    order = []
    for _ in range(3):
        begun = begin(queue)
        assert begun is not None
        order.append(begun)
        queue.ended(begun)
    assert order == [flood[0], flood[1], modest]


def test_a_flood_of_a_limited_program_is_shed_first() -> None:
    """The newcomers of other programs take places in a queue that is full of the flood, though nobody has a session."""
    queue = CallQueue()
    flood = [queued_call(ONE) for _ in range(5)]
    for one in flood:
        assert queue.push(one, 5) is None
    assert queue.push(queued_call(FREE), 5) is flood[4]
    late = queued_call(ONE)
    assert queue.push(late, 5) is late
    assert queue.waiting == 5


@pytest.mark.parametrize("way", ["removed", "cancelled"])
def test_the_next_follows_a_call_that_leaves(way: str) -> None:
    """The next of a room that gives up amid the queue hands its place on."""
    queue = CallQueue()
    first, second = queued_call(ONE), queued_call(ONE)
    for one in (first, second):
        queue.push(one, 10)
    if way == "removed":
        assert queue.remove(first)
        assert not queue.remove(first)
    else:
        first.is_over = True
    assert begin(queue) is second
    assert queue.waiting == 0


class QueueMachine(RuleBasedStateMachine):
    """Against plain lists: limits hold, nobody is lost, and nobody waits who may run."""

    waiting = Bundle("waiting")
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.queue = CallQueue()
        self.model: list[QueuedCall] = []
        self.at_work: list[QueuedCall] = []

    def count(self, of: Program) -> int:
        return sum(one.call.program is of for one in self.at_work)

    def may_run(self, one: QueuedCall) -> bool:
        return not one.max_concurrency or self.count(one.call.program) < one.max_concurrency

    @rule(target=waiting, of=st.sampled_from([FREE, ONE, TWO]), session=st.sampled_from(["a", "b", None]))
    def push(self, of: Program, session: str | None) -> QueuedCall:
        one = queued_call(of, session)
        shed = self.queue.push(one, QUEUE_LIMIT)
        self.model.append(one)
        # A call that has lost its worker waits over the limit, too.
        assert (shed is None) == (len(self.model) <= QUEUE_LIMIT)
        if shed is not None:
            self.model.remove(shed)
        return one

    @rule(target=running)
    def begin(self) -> QueuedCall | None:
        one = begin(self.queue)
        assert (one is None) == (not any(self.may_run(other) for other in self.model))
        if one is not None:
            alike = [
                other
                for other in self.model
                if other.call.session_id == one.call.session_id and other.call.program is one.call.program
            ]
            assert one is alike[0], "overtaken by a call of the same session and program"
            self.model.remove(one)
            self.at_work.append(one)
        return one

    @rule(of=st.sampled_from([FREE, ONE, TWO]))
    def pass_by(self, of: Program) -> None:
        one = queued_call(of)
        free = not any(self.may_run(other) for other in self.model)
        assert self.queue.can_pass(one) == (free and self.may_run(one))

    @rule(one=consumes(running))
    def end(self, one: QueuedCall | None) -> None:
        if one in self.at_work:
            self.at_work.remove(one)
            if one.max_concurrency:
                self.queue.ended(one)

    @rule(one=consumes(running))
    def lose_the_worker(self, one: QueuedCall | None) -> None:
        if one in self.at_work:
            self.at_work.remove(one)
            self.queue.push_back(one)
            self.model.insert(0, one)

    @rule(one=consumes(waiting))
    def remove(self, one: QueuedCall) -> None:
        assert self.queue.remove(one) == (one in self.model)
        if one in self.model:
            self.model.remove(one)

    @rule(of=st.sampled_from([FREE, ONE]), session=st.sampled_from(["a", "new"]))
    def estimate(self, of: Program, session: str) -> None:
        one = queued_call(of, session)
        assert 0 <= self.queue.ahead_of(one) <= len(self.model)
        assert 0 <= self.queue.depth(one) <= len(self.model)

    @invariant()
    def agrees(self) -> None:
        assert self.queue.waiting == len(self.model)
        assert set(self.queue.queued_calls()) == set(self.model)
        assert self.count(ONE) <= 1
        assert self.count(TWO) <= 2
        assert "limited=0" in repr(self.queue) or self.model or self.at_work


TestQueue = QueueMachine.TestCase
