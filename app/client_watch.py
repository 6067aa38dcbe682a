"""Notices that a client has gone away while its call runs."""

import asyncio
from types import TracebackType
from typing import Any, Self

from starlette.types import Receive

from pools.tasks import TaskOwner

WATCH_AFTER_S = 0.05
"""A call that is answered sooner is not watched: that is what keeps the watch free for the usual one."""


class ClientWatch:
    """A scope in which the current task is cancelled when the client goes away; `is_gone` then tells why."""

    __slots__ = ("_receive", "_task", "_tasks", "_timer", "_watching", "is_gone")

    def __init__(self, receive: Receive, tasks: TaskOwner) -> None:
        self._receive = receive
        self._tasks = tasks
        self._watching: asyncio.Task[Any] | None = None
        self.is_gone = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self.is_gone and kind is asyncio.CancelledError:
            self._task.uncancel()

    def _begin(self) -> None:
        self._watching = self._tasks.start(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._task.cancel()
