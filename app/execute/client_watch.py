"""Notices that a client has gone away while its call runs."""

import asyncio
import math
from collections import deque
from types import TracebackType
from typing import Any, Final, Self

from starlette.types import Receive

from common.tasks import TaskOwner
from common.timers import DeadlineTimer

WATCH_AFTER_S: Final = 0.05
"""A call that is answered sooner is not watched: that is what keeps the watch free for the usual one."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class ClientWatches:
    """The watches of all calls."""

    def __init__(self, tasks: TaskOwner) -> None:
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._young: deque[ClientWatch] = deque()
        self._deadline_timer = DeadlineTimer(self._look)

    def of(self, receive: Receive) -> "ClientWatch":
        """A scope in which the current task is cancelled when the client goes away; it then raises ClientGone."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        watch = ClientWatch(receive, task, self._loop.time() + WATCH_AFTER_S)
        self._young.append(watch)
        self._deadline_timer.set(watch.begins_at)
        return watch

    def _look(self, now: float) -> float:
        """Begins those whose time has come."""
        while self._young and self._young[0].begins_at <= now:
            self._young.popleft().begin(self._tasks)
        return self._young[0].begins_at if self._young else math.inf


class ClientWatch:
    """One call's."""

    __slots__ = ("_is_gone", "_receive", "_task", "_watching", "begins_at")

    def __init__(self, receive: Receive, task: asyncio.Task[Any], begins_at: float) -> None:
        self.begins_at = begins_at
        self._receive: Receive | None = receive
        self._task: asyncio.Task[Any] | None = task
        self._is_gone = False
        self._watching: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self._task
        self._receive = self._task = None  # it stays in line for a while, without its request
        if self._watching is not None:
            self._watching.cancel()
        if self._is_gone and kind is asyncio.CancelledError:
            assert task is not None
            task.uncancel()
            raise ClientGone from None

    def begin(self, tasks: TaskOwner) -> None:
        """Watches from now on, if the call is not over."""
        if self._receive is not None:
            self._watching = tasks.start(self._watch(self._receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._is_gone = True
            self._task.cancel()
