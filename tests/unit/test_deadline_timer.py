"""One timer for many deadlines."""

import asyncio
import math

import pytest

from common import timers
from common.timers import DeadlineTimer


async def _rung(times: list[float]) -> list[float]:
    """Sets an deadline_timer to times from now; what was found due, in the order in which it was."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    due = {began + after: after for after in times}
    found: list[float] = []
    over = asyncio.Event()

    def sweep(now: float) -> float:
        found.extend(due.pop(when) for when in sorted(due) if when <= now)
        if not due:
            over.set()
        return min(due, default=math.inf)

    deadline_timer = DeadlineTimer(sweep)
    for when in list(due):
        deadline_timer.set(when)
    async with asyncio.timeout(10):
        await over.wait()
    return found


def test_everything_is_found_due_in_order() -> None:
    """Whatever the order in which it was set."""
    assert asyncio.run(_rung([0.02, 0.001, 0.03, 0.0, 0.01])) == [0.0, 0.001, 0.01, 0.02, 0.03]


def test_a_time_that_is_over_rings_at_once() -> None:
    """A deadline may have passed before anybody looks."""
    assert asyncio.run(_rung([-1.0])) == [-1.0]


def test_a_cancelled_alarm_is_silent_until_it_is_set_again() -> None:
    """A cancelled timer drops its earlier deadline."""

    async def run() -> int:
        rings = 0
        rung = asyncio.Event()

        def sweep(_: float) -> float:
            nonlocal rings
            rings += 1
            rung.set()
            return math.inf

        loop = asyncio.get_running_loop()
        deadline_timer = DeadlineTimer(sweep)
        deadline_timer.set(loop.time())
        deadline_timer.cancel()
        deadline_timer.set(loop.time() + 0.01)
        async with asyncio.timeout(10):
            await rung.wait()
        return rings

    assert asyncio.run(run()) == 1


def test_a_sweep_that_raises_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises: no deadline is forgotten."""
    monkeypatch.setattr(timers, "RETRY_S", 0.01)

    async def run() -> list[str]:
        errors: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(repr(context["exception"])))
        over = asyncio.Event()

        def sweep(_: float) -> float:
            if len(errors) < 2:
                raise OSError(24, "Too many open files")
            over.set()
            return math.inf

        DeadlineTimer(sweep).set(loop.time())
        async with asyncio.timeout(10):
            await over.wait()
        return errors

    assert len(asyncio.run(run())) == 2
