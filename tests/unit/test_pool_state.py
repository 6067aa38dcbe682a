"""The pool's transitions, tried in every order: never more processes than allowed, no worker lost or taken twice."""

import asyncio
import functools
import os
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pools.process.ends import WorkerEnds
from pools.process.process import WorkerProcess
from pools.state import REMEMBERED_SESSIONS, PoolState, WorkerSlot, WorkerState
from tests.support.fake_pools import echo_program

ECHO = echo_program().definition


@functools.cache
def a_process() -> WorkerProcess:
    """One that nobody is behind, and that has loaded `ECHO`."""

    async def made() -> WorkerProcess:
        pipes = [os.pipe() for _ in range(3)]
        (request_end, requests), (replies, reply_end), (output, output_end) = pipes
        for end in (request_end, reply_end, output_end):
            os.close(end)
        process = WorkerProcess(0, WorkerEnds(requests, replies, output), 60.0, lambda _: None)
        process._definitions.add(ECHO, process._definitions.new(ECHO))
        process._definitions.loaded(ECHO, is_concurrent=False)
        return process

    return asyncio.run(made())


def filled(size: int, spare: int = 1) -> PoolState:
    """A pool with all its workers idle."""
    state = PoolState(size, spare)
    for _ in range(state.wanted()):
        state.started(state.begin_start(), a_process())
    return state


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("taken", [0, 1, 4, 5])
def test_workers_are_taken_until_there_are_none(size: int, taken: int) -> None:
    """At 0, 1, n - 1 and n: as many are busy as were taken, and one more is None."""
    state = filled(size)
    slots = [state.take(None, ECHO) for _ in range(taken)]
    assert [slot is not None for slot in slots] == [number < size for number in range(taken)]
    assert state.busy == min(taken, size)
    assert len(state.idle) == size - min(taken, size)


def test_it_prints_as_one_line() -> None:
    """The whole state, at a glance."""
    state = filled(2)
    state.take(None, ECHO)
    assert repr(state) == "<PoolState size=2 spare=1 starting=0 idle=1 busy=1 stopping=0 closing=False>"


def test_a_dying_worker_keeps_its_place_unless_there_is_room() -> None:
    """The replacement starts at once within size + spare, and otherwise when the death is confirmed."""
    state = filled(3, spare=1)
    first, second = state.take(None, ECHO), state.take(None, ECHO)
    assert first is not None
    assert second is not None
    state.begin_stop(first)
    assert state.wanted() == 1
    state.begin_start()
    state.begin_stop(second)
    assert state.wanted() == 0
    state.gone(second)
    assert state.wanted() == 1


def test_a_worker_that_is_due_serves_until_its_replacement_is_ready() -> None:
    """Never less than the pool's size, never more than one at a time."""
    state = filled(2)
    one, other = state.slots
    one.is_due = other.is_due = True
    assert state.wanted() == 1
    replacement = state.begin_start()
    assert state.wanted() == 0
    assert state.live == 2
    retired = state.started(replacement, a_process())
    assert retired is one or retired is other
    assert state.live == 2
    assert state.wanted() == 0
    state.gone(retired)
    assert state.wanted() == 1


def test_a_session_gets_its_worker_again() -> None:
    """If that is idle; otherwise any."""
    state = filled(3)
    home = state.take("s", ECHO)
    assert home is not None
    for other in iter(lambda: state.take(None, ECHO), None):
        state.give_back(other)
        break
    assert state.take("s", ECHO) is not home
    state.give_back(home)


@pytest.mark.parametrize(
    ("others", "is_remembered"), [(1, True), (REMEMBERED_SESSIONS - 1, True), (2 * REMEMBERED_SESSIONS, False)]
)
def test_of_many_sessions_the_last_are_remembered(others: int, *, is_remembered: bool) -> None:
    """As many as promised, and not all that there ever were."""
    state = filled(2)
    its_own = state.take("a", ECHO)
    other = state.take(None, ECHO)
    assert its_own is not None
    assert other is not None
    for number in range(others):
        state.give_back(other)
        assert state.take(f"session-{number}", ECHO) is other
    state.give_back(its_own)
    state.give_back(other)  # so that it is the one who comes next
    assert state.take("a", ECHO) is (its_own if is_remembered else other)


class PoolMachine(RuleBasedStateMachine):
    """Starts, calls, deaths and recycling in any order."""

    @initialize(size=st.integers(1, 4), spare=st.integers(1, 2))
    def make(self, size: int, spare: int) -> None:
        self.state = PoolState(size, spare)

    def slots(self, state: WorkerState) -> list[WorkerSlot]:
        return [slot for slot in self.state.slots if slot.state is state]

    def any_of(self, data: st.DataObject, *states: WorkerState) -> Iterator[WorkerSlot]:
        candidates = [slot for state in states for slot in self.slots(state)]
        if candidates:
            yield candidates[data.draw(st.integers(0, len(candidates) - 1))]

    @rule()
    def start_what_is_wanted(self) -> None:
        for _ in range(self.state.wanted()):
            self.state.begin_start()
        assert self.state.wanted() == 0

    @rule(data=st.data(), well=st.booleans())
    def start_ends(self, data: st.DataObject, well: bool) -> None:
        for slot in self.any_of(data, WorkerState.STARTING):
            if well:
                retired = self.state.started(slot, a_process())
                assert retired is None or (retired.is_due and retired.state is WorkerState.STOPPING)
            else:
                self.state.gone(slot)

    @rule(session=st.sampled_from(["a", "b", None]))
    def take(self, session: str | None) -> None:
        idle = set(self.state.idle)
        slot = self.state.take(session, ECHO)
        assert (slot in idle) if idle else (slot is None)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        for slot in self.any_of(data, WorkerState.BUSY, WorkerState.STOPPING):
            self.state.give_back(slot)

    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        for slot in self.any_of(data, WorkerState.IDLE, WorkerState.BUSY):
            self.state.begin_stop(slot)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        for slot in self.any_of(data, WorkerState.IDLE, WorkerState.BUSY, WorkerState.STOPPING):
            self.state.gone(slot)

    @rule(data=st.data())
    def fall_due(self, data: st.DataObject) -> None:
        for slot in self.any_of(data, WorkerState.IDLE, WorkerState.BUSY):
            slot.is_due = True

    @precondition(lambda self: hasattr(self, "state"))
    @invariant()
    def holds(self) -> None:
        state = self.state
        assert len(state.slots) <= state.size + state.spare
        assert set(state.idle) == set(self.slots(WorkerState.IDLE))
        assert state.busy == len(self.slots(WorkerState.BUSY))
        assert sum(state.counts().values()) == len(state.slots)


TestPool = PoolMachine.TestCase
