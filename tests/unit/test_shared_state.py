"""The transitions of a pool whose workers run many calls at once, tried in every order."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pools.calls import Program
from pools.process.interface import Worker
from pools.shared_state import SharedState
from pools.state import WorkerSlot, WorkerState
from poolshift.worker.definitions import Definition, Signature
from tests.support.fake_pools import echo_program

PLAIN = echo_program().definition
WAITS = Definition("python", Signature((), ()), "programs:waits")
LANES = 3


@dataclass
class _Process:
    """All of a worker that the state asks for."""

    pid: int = 1
    left_by: Program | None = None
    loading: Program | None = None
    lacks: set[Definition] = field(default_factory=set)

    def has_loaded(self, definition: Definition) -> bool:
        return definition not in self.lacks

    def is_concurrent(self, definition: Definition) -> bool:
        return definition is WAITS


def a_process(**members: object) -> Worker:
    return cast("Worker", _Process(**members))  # type: ignore[arg-type]


def filled(size: int, spare: int = 1) -> SharedState:
    """A pool with all its workers idle."""
    state = SharedState(size, spare, LANES)
    for _ in range(state.wanted()):
        state.started(state.begin_start(), a_process())
    return state


def taken(state: SharedState, definition: Definition, session: str | None = None) -> WorkerSlot:
    slot = state.take(session, definition)
    assert slot is not None
    return slot


def test_a_call_goes_to_the_worker_with_the_fewest() -> None:
    """Until all lanes are taken."""
    state = filled(2)
    slots = [taken(state, WAITS) for _ in range(2 * LANES)]
    assert [slots.count(slot) for slot in state.slots] == [LANES, LANES]
    assert not state.has_room
    assert state.take(None, WAITS) is None
    state.give_back(slots[0])
    assert state.has_room
    assert state.take(None, WAITS) is slots[0]


def test_a_session_comes_back_to_its_worker() -> None:
    """Although another has fewer calls."""
    state = filled(2)
    home = taken(state, WAITS, "s")
    assert taken(state, WAITS) is not home
    assert taken(state, WAITS, "s") is home


def test_a_plain_call_has_its_worker_for_itself() -> None:
    """No other comes to it, and it goes to none that has any."""
    state = filled(1)
    slot = taken(state, PLAIN)
    assert state.take(None, WAITS) is None
    state.give_back(slot)
    taken(state, WAITS)
    assert state.take(None, PLAIN) is None


def test_a_worker_drains_for_a_call_that_needs_one_for_itself() -> None:
    """The worker takes nothing meanwhile, and is that call's once it is idle."""
    state = filled(1)
    slot = taken(state, WAITS)
    state.keep_for_others(1)
    assert not state.has_room
    assert state.take(None, WAITS) is None
    state.give_back(slot)
    assert state.has_kept_idle
    assert taken(state, PLAIN) is slot
    assert not state.is_keeping


def test_half_of_the_workers_drain_at_most() -> None:
    """The others serve on, however many calls wait for a worker of their own."""
    state = filled(4)
    for _ in range(8):
        taken(state, WAITS)
    state.keep_for_others(100)
    assert sum(state.take(None, WAITS) is not None for _ in range(4)) == 2
    state.keep_for_others(0)
    assert sum(state.take(None, WAITS) is not None for _ in range(4)) == 2


def test_a_long_call_holds_no_replacement_up() -> None:
    """A worker that is due and drains makes room for the next one's replacement."""
    state = filled(2, spare=2)
    old = [taken(state, WAITS), taken(state, WAITS)]
    for slot in old:
        slot.is_due = True
    for _ in range(2):
        assert state.wanted() == 1
        assert state.started(state.begin_start(), a_process()) is None
    assert state.wanted() == 0
    assert taken(state, WAITS) not in old
    assert state.give_back(old[0]) is old[0]
    assert old[0].state is WorkerState.STOPPING


def test_a_program_that_is_run_alone_is_as_a_plain_one() -> None:
    """For as long as there is a reason for it."""
    state = filled(1)
    state.run_alone[WAITS] = "it blocks"
    slot = taken(state, WAITS)
    assert state.take(None, WAITS) is None
    state.give_back(slot)
    del state.run_alone[WAITS]
    assert taken(state, WAITS) is taken(state, WAITS)


def test_a_copy_leaves_half_of_the_lanes() -> None:
    """And goes to another worker than the call that it copies, if there is one."""
    state = filled(2)
    slot = state.take_spare(WAITS, needed=1, avoid_pid=None)
    assert slot is not None
    assert slot.executions == 0
    assert state.take_spare(WAITS, needed=1, avoid_pid=None) is not slot
    assert state.take_spare(WAITS, needed=1, avoid_pid=None) is None


class SharedMachine(RuleBasedStateMachine):
    """Starts, calls of both kinds, loads, deaths, drains and recycling in any order."""

    @initialize(size=st.integers(1, 3), spare=st.integers(1, 3))
    def make(self, size: int, spare: int) -> None:
        self.state = SharedState(size, spare, LANES)
        self.running: list[tuple[WorkerSlot, bool]] = []
        """Each call with its worker, and if it has that for itself."""
        self.drained: set[WorkerSlot] = set()

    def any_of(self, data: st.DataObject, *states: WorkerState) -> Iterator[WorkerSlot]:
        candidates = [slot for slot in self.state.slots if slot.state in states]
        if candidates:
            yield candidates[data.draw(st.integers(0, len(candidates) - 1))]

    def forget(self, slot: WorkerSlot) -> None:
        self.running = [one for one in self.running if one[0] is not slot]

    @rule()
    def start_what_is_wanted(self) -> None:
        for _ in range(self.state.wanted()):
            self.state.begin_start()
        assert self.state.wanted() == 0

    @rule(data=st.data(), lacks=st.sampled_from([set(), {WAITS}, {PLAIN}]))
    def start_ends(self, data: st.DataObject, lacks: set[Definition]) -> None:
        for slot in self.any_of(data, WorkerState.STARTING):
            retired = self.state.started(slot, a_process(lacks=lacks))
            assert retired is None or (retired.is_due and not any(one is retired for one, _ in self.running))

    @rule(session=st.sampled_from(["a", "b", None]), definition=st.sampled_from([WAITS, PLAIN]))
    def take(self, session: str | None, definition: Definition) -> None:
        idle, can_take = set(self.state.idle), self.state.can_take(definition)
        slot = self.state.take(session, definition)
        assert (slot is not None) is can_take
        if slot is None:
            return
        assert slot not in self.drained
        assert slot.process is not None
        assert slot.process.has_loaded(definition)
        assert definition is WAITS or slot in idle
        assert not any(one is slot and is_alone for one, is_alone in self.running)
        self.running.append((slot, definition is PLAIN))

    @rule()
    def take_to_load(self) -> None:
        was_idle = bool(self.state.idle)
        slot = self.state.take_to_load()
        if slot is not None:
            self.running.append((slot, was_idle))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.running:
            slot, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            retired = self.state.give_back(slot)
            if retired is not None:
                assert not any(one is retired for one, _ in self.running)

    @rule(count=st.integers(0, 5))
    def keep(self, count: int) -> None:
        self.state.keep_for_others(count)

    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        for slot in self.any_of(data, WorkerState.IDLE, WorkerState.BUSY):
            if self.state.begin_drain(slot):
                self.drained.add(slot)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        for slot in self.any_of(data, WorkerState.IDLE, WorkerState.BUSY, WorkerState.STOPPING):
            self.state.gone(slot)
            self.forget(slot)

    @rule(data=st.data())
    def fall_due(self, data: st.DataObject) -> None:
        for slot in self.any_of(data, WorkerState.IDLE, WorkerState.BUSY):
            slot.is_due = True

    @precondition(lambda self: hasattr(self, "state"))
    @invariant()
    def holds(self) -> None:
        state = self.state
        assert len(state.slots) <= state.size + state.spare
        assert set(state.idle) == {slot for slot in state.slots if slot.state is WorkerState.IDLE}
        running = [slot for slot, _ in self.running if slot.state is WorkerState.BUSY]
        assert state.calls == len(running)
        for slot in state.slots:
            assert slot.calls == running.count(slot) <= LANES
            assert (slot.calls > 0) is (slot.state is WorkerState.BUSY)
        assert 0 <= state.live <= len(state.slots)


TestShared = SharedMachine.TestCase
