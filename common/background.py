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


class Health:
    """The health of one part of the service: it works, or it has been failing for some time."""

    def __init__(self) -> None:
        self.failing_since: float | None = None
        """By `time.monotonic`."""

    def failed(self) -> None:
        """Notes a failure; the first one since the part worked counts."""
        if self.failing_since is None:
            self.failing_since = time.monotonic()

    def works(self) -> None:
        """Notes that the part works."""
        self.failing_since = None


class Background:
    """Runs named tasks until it is closed, whatever they raise."""

    def __init__(self, count_restarts: Callable[[str, int], None] = lambda _, __: None) -> None:
        """Calls `count_restarts` with a task's name: with 0 at its first start, with 1 at each later one."""
        self._count_restarts = count_restarts
        self._tasks = TaskOwner("background", is_detached=True)
        self._vital: dict[str, Health] = {}

    def run(self, name: str, work: Callable[[], Awaitable[None]], *, is_vital: bool = False) -> asyncio.Task[None]:
        """Runs `work()` and starts it again each time that it ends or raises.

        Args:
            name: names the task in the log and in the metrics.
            work: makes the coroutine of one run.
            is_vital: a restart of the process would repair a task that keeps failing, so `failing` lists it. Never set
                for a task that fails because of something outside of the service (database, LM, collector).
        """
        self._count_restarts(name, 0)
        health = self.vital(name) if is_vital else Health()
        return self._tasks.start(self._keep_running(name, work, health))

    def vital(self, name: str) -> Health:
        """The health of a vital part that is not a task; whoever owns the part notes its failures there."""
        self._vital[name] = health = Health()
        return health

    def failing(self) -> list[str]:
        """The vital tasks and parts that have been failing for `FAILING_AFTER_S`."""
        oldest = time.monotonic() - FAILING_AFTER_S
        return [
            name
            for name, health in self._vital.items()
            if health.failing_since is not None and health.failing_since <= oldest
        ]

    async def stop(self, task: asyncio.Task[None]) -> None:
        """Cancels one task that `run` returned, and waits for its end."""
        task.cancel()
        await asyncio.wait([task])

    async def aclose(self) -> None:
        """Cancels all tasks and waits for their end."""
        await self._tasks.aclose()

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[None]], health: Health) -> None:
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            steady = asyncio.get_running_loop().call_later(STEADY_S, health.works)
            try:
                await work()
                error: Exception | None = None
            except Exception as raised:
                error = raised
            finally:
                steady.cancel()
            failures = 1 if asyncio.get_running_loop().time() - began >= STEADY_S else failures + 1
            health.failed()
            delay_s = backoff_s(failures)
            _log.error("background task ended; it is started again", task=name, delay_s=delay_s, exc_info=error)
            self._count_restarts(name, 1)
            await asyncio.sleep(delay_s)
