"""Runs what an `async` function of a user's returns."""

from collections.abc import Coroutine
from typing import Any


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end, in an event loop of its own."""
    import asyncio  # noqa: PLC0415  # a third of a zygote's start, and most programs do without

    return asyncio.run(coroutine)
