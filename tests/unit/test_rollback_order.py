"""A rollback voids every change that was asked for before it, in whatever order the database gets to them."""

import asyncio
from collections.abc import Iterable
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from routing.errors import StaleRevision, StoreUnavailable
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.model import Change, Source
from store.database import Database
from store.rollout_log import SqlRolloutLog
from tests.support.rollout import DelayedLog, Delays, MemoryLog, rise_before_a_rollback

pytestmark = pytest.mark.thorough

Step = tuple[Literal["patch", "rollback", "file", "flag", "restate", "flush", "follow", "go_on", "fail"], int]
"""A step of the world and a number: the replica it is for, or what goes on."""

ASKS = ("patch", "rollback", "file", "flag")
OTHERS = ("restate", "flush", "follow", "go_on", "go_on", "go_on", "fail")
steps = st.lists(st.tuples(st.sampled_from(ASKS + OTHERS), st.integers(0, 5)), max_size=30)
later_steps = st.lists(st.tuples(st.sampled_from(OTHERS), st.integers(0, 5)), max_size=30)
ENOUGH_TURNS = 30
"""Turns of the event loop, for whatever can go on without the database to go on."""


class World:
    """Replicas that share a log, and a database whose answers come when a test says so, or never."""

    def __init__(self, log: MemoryLog, delays: Delays, flags: list[RolloutFlag]) -> None:
        self.log = log
        self.delays = delays
        self.flags = flags
        self.tasks: list[asyncio.Task[object]] = []
        self.stated: dict[RolloutFlag, Change] = {}

    async def run(self, steps: Iterable[Step]) -> None:
        """Takes each step as far as it gets without the database."""
        for name, number in steps:
            if name in ("go_on", "fail"):
                self.delays.go_on(number, fails=name == "fail")
            else:
                self.ask(name, number)
            await self.settle()

    def ask(self, name: str, number: int) -> None:
        """Asks a replica for something."""
        flag = self.flags[number % len(self.flags)]
        if name == "patch":
            work: object = flag.change(Change(9000, Source.API, "alice"))
        elif name == "rollback":
            work = flag.rollback("carol", None)
        elif name == "flush":
            work = flag.flush()
        elif name == "follow":
            work = self.follow(flag)
        elif name == "restate":  # as a provider that is asked again, or a file that could not be applied
            change = self.stated.get(flag)
            work = flag.flush() if change is None else flag.apply(change)
        else:
            self.stated[flag] = Change(8000 + number, Source.FILE if name == "file" else Source.FLAG, name)
            work = flag.apply(self.stated[flag])
        self.tasks.append(asyncio.ensure_future(work))  # type: ignore[call-overload]

    async def follow(self, flag: RolloutFlag) -> None:
        """Has a replica read the log's newest revision."""
        latest = await DelayedLog(self.log, self.delays).latest()
        assert latest is not None
        flag.follow(latest)

    async def settle(self) -> None:
        """Lets everything go on that can."""
        for _ in range(ENOUGH_TURNS):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Has the database answer everything, and every replica write and follow what is left."""
        self.delays.free()
        outcomes = await asyncio.gather(*self.tasks, return_exceptions=True)
        unexpected = [one for one in outcomes if isinstance(one, BaseException)]
        assert all(isinstance(one, (StaleRevision, StoreUnavailable)) for one in unexpected), unexpected
        for flag in self.flags:
            await flag.flush()
        for flag in self.flags:
            await self.follow(flag)


async def world(replicas: int) -> World:
    log, delays = MemoryLog(), Delays()
    delays.is_free = True
    flags = [await open_flag(DelayedLog(log, delays), 5000) for _ in range(replicas)]
    delays.is_free = False
    return World(log, delays, flags)


PATCH_TWICE: list[Step] = [("patch", 0), ("patch", 0)]


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 3), steps, st.integers(0, 2), later_steps)
@example(1, PATCH_TWICE, 0, [])
@example(2, PATCH_TWICE, 1, [("go_on", 2), ("go_on", 2), ("go_on", 0)])
@example(2, [("rollback", 0), ("patch", 0), ("fail", 0)], 1, [])
@example(2, [("file", 0), ("fail", 0)], 0, [("restate", 0)])
@example(2, [("flag", 0), ("fail", 0)], 1, [("go_on", 0), ("go_on", 0), ("go_on", 0), ("restate", 0)])
def test_a_rollback_that_is_asked_for_last_is_in_force_in_the_end(
    replicas: int, before: list[Step], where: int, after: list[Step]
) -> None:
    """Whatever was asked for before, of whom, and whatever the database makes of it: nothing goes to V2.

    On the replica that was asked, nothing does from that moment on.
    """

    async def run() -> None:
        here = await world(replicas)
        await here.run(before)
        here.ask("rollback", where)
        rolled_back = here.flags[where % replicas]
        await here.settle()
        assert rolled_back.threshold == 0
        for step in after:
            await here.run([step])
            assert rolled_back.threshold == 0
        await here.end()
        assert here.log.revisions[-1].canary_basis_points == 0
        assert [flag.threshold for flag in here.flags] == [0] * replicas

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), steps, st.integers(0, 2))
def test_a_change_that_is_asked_for_after_everything_else_comes_into_force(
    replicas: int, before: list[Step], where: int
) -> None:
    """No rollback that is over blocks the way: once all is written and known, the next change is taken."""

    async def run() -> None:
        here = await world(replicas)
        await here.run(before)
        await here.end()
        flag = here.flags[where % replicas]
        await flag.change(Change(700, Source.API, "bob"))
        assert flag.current.canary_basis_points == 700
        assert here.log.revisions[-1].canary_basis_points == 700

    asyncio.run(run())


@pytest.mark.parametrize(("is_elsewhere", "is_overtaken"), [(False, False), (True, False), (True, True)])
@pytest.mark.anyio
async def test_changes_that_hang_in_sqlite(database: Database, *, is_elsewhere: bool, is_overtaken: bool) -> None:
    """The same by the log in SQL: the rollback here or elsewhere, also where a change has followed it already."""
    one, other = SqlRolloutLog(database), SqlRolloutLog(database)
    await rise_before_a_rollback(one, other, is_elsewhere=is_elsewhere, is_overtaken=is_overtaken)


@pytest.mark.parametrize("source", ["rollback", "judge", "a source of tomorrow"])
@pytest.mark.anyio
async def test_a_newer_replicas_rollback_counts(database: Database, source: str) -> None:
    """A source that this replica does not know is shown as it is, and its fall to 0 % voids what was asked before."""
    flag = await open_flag(SqlRolloutLog(database), 5000)
    newer = await SqlRolloutLog(database).append(Change(0, source, "tomorrow"), after=1)  # type: ignore[arg-type]
    assert newer.rollback_revision == 2
    with pytest.raises(StaleRevision, match="a rollback voided this change"):
        await flag.change(Change(9000, Source.API, "alice"))
    assert (flag.threshold, flag.current.source) == (0, source)
    assert [str(one.source) for one in await flag.history(limit=10)] == [source, "environment"]


@pytest.mark.parametrize("text", ["a NUL \x00", "half a pair \ud800", "\x00" * 3, "x" * 100_000])
@pytest.mark.anyio
async def test_a_rollback_is_written_whatever_its_text_is(database: Database, text: str) -> None:
    """And so it holds up no change that follows it."""
    flag = await open_flag(SqlRolloutLog(database), 5000)
    await flag.rollback(text, text)
    assert (flag.is_written, flag.threshold) == (True, 0)
    latest = await SqlRolloutLog(database).latest()
    assert latest is not None
    assert "\x00" not in f"{latest.updated_by}{latest.reason}"
    assert len(latest.updated_by) <= 256
    await flag.change(Change(100, Source.API, "bob"))
    assert flag.current.revision == 3
