"""Owns the tasks that must live as long as the service: each is restarted with a backoff, and says so."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from common.backoff import backoff_s
from common.tasks import TaskOwner

STEADY_S = 10.0
"""A task that has run this long, in seconds, starts again without a backoff."""
FAILING_AFTER_S = 60.0
"""A vital task that has not run steadily for this long, in seconds, makes the service unhealthy."""

_log = structlog.stdlib.get_logger("poolshift.background")


class _Record:
    """The restarts of one task."""

    def __init__(self, *, is_vital: bool) -> None:
        self.is_vital = is_vital
        self.failures = 0
        self.failing_since: float | None = None


class Background:
    """Runs named tasks until it is closed, whatever they raise."""

    def __init__(self, count_restarts: Callable[[str, int], None] = lambda _, __: None) -> None:
        """Calls `count_restarts` with a task's name: with 0 at its first start, with 1 at each later one."""
        self._count_restarts = count_restarts
        self._tasks = TaskOwner("background", is_detached=True)
        self._records: dict[str, _Record] = {}

    def run(self, name: str, work: Callable[[], Awaitable[None]], *, is_vital: bool = False) -> asyncio.Task[None]:
        """Runs `work()` and starts it again each time that it ends or raises.

        Args:
            name: names the task in the log and in the metrics.
            work: makes the coroutine of one run.
            is_vital: a restart of the process would repair a task that keeps failing, so `failing` lists it. Never set
                for a task that fails because of something outside of the service (database, LM, collector).
        """
        self._count_restarts(name, 0)
        self._records[name] = record = _Record(is_vital=is_vital)
        return self._tasks.start(self._keep_running(name, work, record))

    def failing(self) -> list[str]:
        """The vital tasks that have not run steadily for `FAILING_AFTER_S`."""
        oldest = time.monotonic() - FAILING_AFTER_S
        return [
            name
            for name, record in self._records.items()
            if record.is_vital and record.failing_since is not None and record.failing_since <= oldest
        ]

    async def stop(self, task: asyncio.Task[None]) -> None:
        """Cancels one task that `run` returned, and waits for its end."""
        task.cancel()
        await asyncio.wait([task])

    async def aclose(self) -> None:
        """Cancels all tasks and waits for their end."""
        await self._tasks.aclose()

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[None]], record: _Record) -> None:
        while True:
            began = time.monotonic()
            steady = asyncio.get_running_loop().call_later(STEADY_S, self._ran_steadily, record)
            try:
                await work()
                error: Exception | None = None
            except Exception as raised:
                error = raised
            finally:
                steady.cancel()
            record.failures += 1
            record.failing_since = record.failing_since or began
            delay_s = backoff_s(record.failures)
            _log.error("background task ended; it is started again", task=name, delay_s=delay_s, exc_info=error)
            self._count_restarts(name, 1)
            await asyncio.sleep(delay_s)

    @staticmethod
    def _ran_steadily(record: _Record) -> None:
        record.failures = 0
        record.failing_since = None
