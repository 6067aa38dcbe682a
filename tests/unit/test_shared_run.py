"""Work that many ask for at once: never twice at a time, and never less than what was there at the question."""

import asyncio

import pytest

from common.shared_run import SharedRun

pytestmark = pytest.mark.anyio


class Slow:
    """Takes all that is there when it begins, and is done when it is told to."""

    def __init__(self) -> None:
        self.there: list[str] = ["first"]
        self.done: list[str] = []
        self.begins = asyncio.Event()
        self.may_end = asyncio.Event()
        self.fails = False
        self.shared = SharedRun(self._work)

    async def _work(self) -> None:
        taken, self.there = self.there, []
        self.begins.set()
        try:
            await self._end()
        except BaseException:
            self.there = taken + self.there
            raise
        self.done += taken

    async def _end(self) -> None:
        await self.may_end.wait()
        if self.fails:
            raise ConnectionError


async def test_who_asks_amid_a_run_has_everything_done_at_its_end() -> None:
    """All is done that was begun already or has come since, in two runs, however many ask."""
    slow = Slow()
    first = asyncio.create_task(slow.shared())
    await slow.begins.wait()
    slow.there.append("second")
    others = [asyncio.create_task(slow.shared()) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(one.done() for one in others)
    slow.may_end.set()
    await asyncio.gather(first, *others)
    assert slow.done == ["first", "second"]


async def test_a_run_that_fails_fails_for_all_who_wait() -> None:
    """They do not try one after the other, each for the length of a timeout."""
    slow = Slow()
    slow.fails = True
    asked = [asyncio.create_task(slow.shared()) for _ in range(3)]
    await slow.begins.wait()
    slow.may_end.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionError] * 3
    slow.fails = False
    await slow.shared()
    assert slow.done == ["first"]


async def test_a_run_that_is_broken_off_is_done_by_who_waits() -> None:
    """The client that began it has gone."""
    slow = Slow()
    first, second, third = (asyncio.create_task(slow.shared()) for _ in range(3))
    await slow.begins.wait()
    first.cancel()
    slow.may_end.set()
    await asyncio.gather(second, third)
    assert slow.done == ["first"]
    assert first.cancelled()
