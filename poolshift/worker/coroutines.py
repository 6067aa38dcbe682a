"""Runs what an `async` function of a user's returns."""

import inspect
from collections.abc import Callable, Coroutine
from typing import Any


def _in_a_loop_of_its_own(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # noqa: PLC0415  # 40 % of the imports of a zygote, and most programs do without

    return asyncio.run(coroutine)


_runner: Callable[[Coroutine[Any, Any, Any]], Any] = _in_a_loop_of_its_own


def run_by(runner: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    """Runs coroutines by `runner` from now on: what `setup()` opens belongs to the event loop of the calls."""
    global _runner  # noqa: PLW0603  # one process is one worker
    _runner = runner


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end, in an event loop of its own unless the worker has one for all."""
    return _runner(coroutine)


def result_of(returned: Any) -> Any:
    """Runs what a function has returned, if that is a coroutine; anything else is the result itself."""
    return run(returned) if inspect.iscoroutine(returned) else returned
