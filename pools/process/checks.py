"""Checks definitions in workers of their own, a few at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pools.errors import PoolOverloaded, SpawnFailed, WorkerCrashed
from pools.process.exits import ExitCause
from pools.process.process import WorkerProcess
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.loading import EntrypointError

CHECKS_AT_ONCE: Final = 2
"""Each has a process of its own, beside those of the pools."""
QUEUE_LIMIT: Final = 64
"""Checks that may wait, beside those that run."""
QUEUE_TIMEOUT_S: Final = 10.0


class Checks:
    """A bounded number of workers that try definitions, one each, and end."""

    def __init__(self, spawn: Callable[[], Awaitable[WorkerProcess]], timeout_s: float) -> None:
        """`timeout_s` is the time for a definition to load, in seconds."""
        self._timeout_s = timeout_s
        self._spawn = spawn
        self._places = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Checks waiting={self._waiting}>"

    async def load(self, definition: Definition) -> None:
        """Loads `definition` as its first call would (see `pools.process.interface.Loads`)."""
        try:
            await self.check(definition, as_called=True)
        except PoolOverloaded as error:
            raise SpawnFailed(str(error)) from None

    async def check(self, definition: Definition, *, as_called: bool = False) -> Signature | None:
        """Tries to load `definition` (see `pools.process.interface.WorkerSpawner.check`)."""
        await self._take_place()
        try:
            worker = await self._spawn()
        except BaseException:
            self._places.release()
            raise
        worker.when_ended(lambda _: self._places.release())  # its process counts until it is dead
        step = "load" if as_called else "import"
        try:
            async with asyncio.timeout(self._timeout_s):
                return await worker.check(definition, as_called=as_called)
        except TimeoutError:
            raise EntrypointError(f"{definition.entrypoint} takes more than {self._timeout_s:g} s to {step}") from None
        except WorkerCrashed as error:
            if error.is_ours:
                raise SpawnFailed(
                    f"the process that was to try {definition.entrypoint} died: {error.exit_cause}"
                ) from None
            raise EntrypointError(f"{definition.entrypoint} ends the process on {step} ({error.exit_cause})") from None
        finally:
            worker.kill(ExitCause.RECYCLED)

    async def _take_place(self) -> None:
        if self._waiting >= QUEUE_LIMIT:
            raise PoolOverloaded(f"{self._waiting} definitions wait to be checked", retry_after_s=QUEUE_TIMEOUT_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(QUEUE_TIMEOUT_S):
                await self._places.acquire()
        except TimeoutError:
            detail = f"a definition waited {QUEUE_TIMEOUT_S:g} s to be checked"
            raise PoolOverloaded(detail, retry_after_s=QUEUE_TIMEOUT_S) from None
        finally:
            self._waiting -= 1
