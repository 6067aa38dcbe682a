"""Runs what an `async` function of a user's returns."""

import inspect
from collections.abc import Coroutine
from typing import Any


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end, in an event loop of its own."""
    import asyncio  # noqa: PLC0415  # 40 % of the imports of a zygote, and most programs do without

    return asyncio.run(coroutine)


def result_of(returned: Any) -> Any:
    """Runs what a function has returned, if that is a coroutine; anything else is the result itself."""
    return run(returned) if inspect.iscoroutine(returned) else returned
