"""Threads that run before they are needed: a system that grants no more of them then stops nothing."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

THREADS: Final = 8
"""For short work that would hold up the event loop: files, the kernel's figures, the names of hosts."""
_CHECKS: Final = ThreadPoolExecutor(2, thread_name_prefix="poolshift-check")
"""For work whose cost a client chooses: however much of it is sent, the threads for the service's own work are free."""

_log = structlog.stdlib.get_logger(__name__)
_T = TypeVar("_T")


async def start_threads(count: int = THREADS) -> None:
    """Gives the event loop `count` threads (for `asyncio.to_thread`), all of which run from now on."""
    executor = ThreadPoolExecutor(count, thread_name_prefix="poolshift")
    all_run = threading.Barrier(count)
    try:
        for _ in range(count):
            executor.submit(all_run.wait)  # starts a thread, since all others wait
    except RuntimeError as error:
        all_run.abort()
        _log.warning("fewer threads than wanted could be started", reason=str(error))
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    # uvloop has threads of its own for names of hosts. Where they cannot be started, libuv ends the process.
    await loop.getaddrinfo("127.0.0.1", 0)


async def in_thread(work: Callable[[], _T]) -> _T:
    """Runs `work` in a thread, or on the event loop if no thread can be had. Running it twice must do no harm."""
    return await _in_thread_of(None, work)


async def in_check_thread(work: Callable[[], _T]) -> _T:
    """Does as `in_thread`, for work whose cost a client chooses. No two calls of it block a thread of the service's."""
    return await _in_thread_of(_CHECKS, work)


async def _in_thread_of(executor: ThreadPoolExecutor | None, work: Callable[[], _T]) -> _T:
    try:
        future = asyncio.get_running_loop().run_in_executor(executor, work)
    except RuntimeError:
        return work()
    return await future
