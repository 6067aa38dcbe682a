"""The programs of the bench: the same functions in Poolshift's workers and in every peer's."""

import asyncio
import time
from typing import Any

BLOCK_S = 0.02
PAUSE_S = 0.05
AWAIT_S = 0.1
COMPUTE_S = 0.005


def increment(number: int) -> dict[str, Any]:
    """Trivial: what is left of a call's time is overhead."""
    return {"number": number + 1}


def block(number: int) -> dict[str, Any]:
    """Waits 20 ms, as for a model's endpoint."""
    time.sleep(BLOCK_S)
    return {"number": number + 1}


def pause(number: int) -> dict[str, Any]:
    """Waits 50 ms."""
    time.sleep(PAUSE_S)
    return {"number": number + 1}


async def await_answer(number: int) -> dict[str, Any]:
    """Awaits 100 ms, as for a language model that answers soon."""
    await asyncio.sleep(AWAIT_S)
    return {"number": number + 1}


def compute(number: int) -> dict[str, Any]:
    """Keeps a core busy for 5 ms of its time, however long that takes where others want the core as well."""
    until = time.thread_time() + COMPUTE_S
    while time.thread_time() < until:
        pass
    return {"number": number + 1}


def echo(text: str) -> dict[str, Any]:
    """Gives back what it got."""
    return {"text": text}
