"""Programs that run beside others on one worker, or do not let others run."""

import asyncio
import contextvars
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

_word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="nobody's")
_meeting: dict[str, int] = {}


async def waits(seconds: str) -> dict[str, Any]:
    """Awaits for so many seconds."""
    await asyncio.sleep(float(seconds))
    return {"result": str(os.getpid())}


async def meets(name: str, others: str) -> dict[str, Any]:
    """Ends once so many calls have come to the same place in this process."""
    _meeting[name] = _meeting.get(name, 0) + 1
    while _meeting[name] < int(others):  # noqa: ASYNC110  # as a program of a user's would
        await asyncio.sleep(0.001)
    return {"result": str(os.getpid())}


async def waits_for_file(path: str) -> dict[str, Any]:
    """Ends once a file is there."""
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240  # the test makes it
        await asyncio.sleep(0.005)
    return {"result": str(os.getpid())}


def has_it_alone(seconds: str) -> dict[str, Any]:
    """Computes, as a plain function does."""
    time.sleep(float(seconds))
    return {"result": str(os.getpid())}


async def blocks(seconds: str) -> dict[str, Any]:
    """Holds the event loop up."""
    time.sleep(float(seconds))  # noqa: ASYNC251  # that is the mistake
    return {"result": str(os.getpid())}


async def ignores_cancellation(seconds: str) -> dict[str, Any]:
    """Goes on although it is cancelled."""
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass
    return {"result": str(os.getpid())}


async def cleans_up(path: str) -> dict[str, Any]:
    """Waits for ever, and writes into a file that it has begun, and that it is cancelled."""
    Path(path).write_text("begun")  # noqa: ASYNC240
    try:
        await asyncio.sleep(3600)
    finally:
        Path(path).write_text("cleaned up")  # noqa: ASYNC240
    return {"result": ""}


async def dies_with(others: str) -> dict[str, Any]:
    """Ends the process once so many calls of `meets` are in it."""
    while _meeting.get("death", 0) < int(others):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    os._exit(7)


async def leaks(mib: str) -> dict[str, Any]:
    """Keeps so much memory, and waits a little."""
    _kept.append(bytearray(int(mib) << 20))
    await asyncio.sleep(0.05)
    return {"result": str(os.getpid())}


_kept: list[bytearray] = []


async def says_its_own(word: str, steps: str) -> dict[str, Any]:
    """Prints its word at each step, and tells if its context was its own throughout."""
    _word.set(word)
    seen = set()
    for _ in range(int(steps)):
        print(word)
        await asyncio.sleep(0)
        seen.add(await asyncio.create_task(_of_child()))
    return {"result": ",".join(sorted(seen))}


async def _of_child() -> str:
    await asyncio.sleep(0)
    return _word.get()


async def leaves_a_task(path: str) -> dict[str, Any]:
    """Starts a task that would write a file later, and does not wait for it."""
    asyncio.get_running_loop().create_task(_write_later(path))  # that is the mistake
    await asyncio.sleep(0)
    return {"result": ""}


async def _write_later(path: str) -> None:
    await asyncio.sleep(0.2)
    Path(path).write_text("late")  # noqa: ASYNC240


async def leaves_a_cleaner(seconds: str) -> dict[str, Any]:
    """Leaves a task that takes so long to clean up when it is cancelled."""
    asyncio.get_running_loop().create_task(_clean_up(float(seconds)))
    await asyncio.sleep(0)
    return {"result": ""}


async def _clean_up(seconds: float) -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(seconds)


class SlowToLoad:
    """A class whose `setup` ends once a file is there, which `SLOW_TO_LOAD` names."""

    async def setup(self) -> None:
        """Waits for the file."""
        while not Path(os.environ["SLOW_TO_LOAD"]).exists():  # noqa: ASYNC110, ASYNC240  # the test makes it
            await asyncio.sleep(0.005)

    async def __call__(self, seconds: str) -> dict[str, Any]:
        return {"result": seconds}


async def counts(steps: str) -> AsyncIterator[dict[str, Any]]:
    """Yields its steps; the last is the result."""
    for step in range(int(steps)):
        await asyncio.sleep(0)
        yield {"result": str(step)}


class Keeper:
    """A class with an async `__call__`, whose `setup` belongs to the event loop of its calls."""

    async def setup(self) -> None:
        """Notes the event loop."""
        self.loop = asyncio.get_running_loop()

    async def __call__(self, word: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"result": f"{word} {self.loop is asyncio.get_running_loop()}"}
