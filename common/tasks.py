"""Owns background tasks: none is lost, none outlives its owner, none fails in silence."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

import structlog

_log = structlog.stdlib.get_logger(__name__)


class TaskOwner:
    """Starts tasks and, when closed, cancels and awaits those that are left."""

    def __init__(self, name: str, *, is_detached: bool = False) -> None:
        """`is_detached` tasks inherit no context: they outlive the call that starts them, and are not about it."""
        self._name = name
        self._is_detached = is_detached
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs `work` until it ends or the owner is closed."""
        task = asyncio.get_running_loop().create_task(work, context=Context() if self._is_detached else None)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self) -> None:
        """Waits until all that runs has ended by itself."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Cancels what runs and waits for its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background task failed", owner=self._name, exc_info=error)
