"""Waits for a condition, never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain, repeat

DEADLINE_S = 60.0
"""Only a test that has failed waits this long."""


_PAUSES_S = (0.005, 0.01, 0.02, 0.04)
"""Time between two looks; the last is that of all further ones. Looking costs what is waited for its processor."""


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Returns as soon as `condition` holds; fails the test where it does not within `deadline_s`."""
    end = time.monotonic() + deadline_s
    pauses = _pauses()
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(next(pauses))


async def wait_until_async(condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float = DEADLINE_S) -> None:
    """The same for a condition that has to be awaited."""
    end = time.monotonic() + deadline_s
    pauses = _pauses()
    while not await condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        await asyncio.sleep(next(pauses))


def _pauses() -> Iterator[float]:
    return chain(_PAUSES_S, repeat(_PAUSES_S[-1]))
