"""The work behind the calls: it goes on whatever the store takes for the counts."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.background import Background
from routing.catalog import bookkeeping
from routing.catalog.bookkeeping import Bookkeeping
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.usefixtures("short_interval")
TAKES_S = 0.01


@pytest.fixture
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookkeeping, "FLUSH_INTERVAL_S", TAKES_S / 10)


class Store:
    """What the bookkeeping works on; writing counts takes a while."""

    def __init__(self, ttl_s: float = 3600.0) -> None:
        self.ttl_s = ttl_s
        self.writes: list[tuple[float, float]] = []
        self.other_work = 0
        self.sweeps = 0
        self.third_write = asyncio.Event()

    async def flush(self) -> None:
        began = time.monotonic()
        await asyncio.sleep(TAKES_S)  # the slow store itself
        self.writes.append((began, time.monotonic()))
        if len(self.writes) == 3:
            self.third_write.set()

    async def end_idle(self) -> None:
        pass

    async def sweep(self) -> None:
        self.sweeps += 1

    async def keep(self) -> None:
        self.other_work += 1


class Flag:
    """A rollout with nothing to write."""

    async def flush(self) -> None:
        pass


async def until_the_third_write(others: Store) -> Store:
    """The work on `others` and on the programs' store, which is returned."""
    programs = Store()
    background = Background()
    work = Bookkeeping(*cast("Any", (programs, others, others, Flag(), background)))
    work.start()
    async with asyncio.timeout(DEADLINE_S):
        await programs.third_write.wait()
    await work.aclose()
    await background.aclose()
    return programs


def test_counts_take_a_small_part_of_the_time() -> None:
    """After each write they rest many times as long as it took; what else is to be done goes on meanwhile.

    What is to end is looked for at once, and not again that soon.
    """
    others = Store()
    programs = asyncio.run(until_the_third_write(others))
    for (began, ended), (begins_again, _) in zip(programs.writes[:2], programs.writes[1:3], strict=True):
        assert begins_again - ended >= 20 * (ended - began)
    assert others.other_work > len(programs.writes)
    assert others.sweeps == 1


def test_what_lives_for_a_short_time_is_looked_for_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out because a timer rang a little early, as uvloop's do."""
    now = 0.0

    async def early(seconds: float) -> None:
        nonlocal now
        now += 0.999 * seconds
        await asyncio.sleep(0)

    monkeypatch.setattr(bookkeeping, "asyncio", SimpleNamespace(sleep=early, wait=asyncio.wait))
    monkeypatch.setattr(bookkeeping, "time", SimpleNamespace(monotonic=lambda: now))

    others = Store(ttl_s=4 * bookkeeping.FLUSH_INTERVAL_S)
    asyncio.run(until_the_third_write(others))
    assert others.other_work == 3
    assert others.sweeps >= 2  # the third round is cut off
