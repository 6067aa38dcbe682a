"""What is done behind the calls: counts go to the store, idle sessions end, long runs are kept and forgotten."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from common.background import Background
from routing.catalog.jobs import Jobs
from routing.catalog.programs import Programs
from routing.catalog.sessions import Sessions
from routing.errors import StoreUnavailable
from routing.rollout.flag import RolloutFlag

FLUSH_INTERVAL_S = 1.0
"""A service that is killed forgets the counts of so long, and nothing else."""
_REST = 20
"""After counts have been written they rest so many times as long as that took, at most for `_LONGEST_REST_S`.

That is longer than `FLUSH_INTERVAL_S` only where tens of thousands of programs and sessions are in use at once, or the
database is slow; a service that is killed then forgets the counts of up to `_LONGEST_REST_S` and a flush.
"""
_LONGEST_REST_S = 10.0
_SWEEP_INTERVAL_S = 10.0
"""Between two looks for what is to end. Each holds up the calls for some milliseconds, and rarely finds anything."""
_log = structlog.stdlib.get_logger("poolshift.store")


class Bookkeeping:
    """The background work on programs, sessions, long runs, and a rollback that could not be written down before."""

    def __init__(
        self, programs: Programs, sessions: Sessions, jobs: Jobs, flag: RolloutFlag, background: Background
    ) -> None:
        self._flag = flag
        self._programs = programs
        self._sessions = sessions
        self._jobs = jobs
        self._background = background
        self._task: asyncio.Task[None] | None = None
        self._longest_rest_s = min(_LONGEST_REST_S, sessions.ttl_s / 4)
        self._rests_until = 0.0
        self._sweep_interval_s = min(_SWEEP_INTERVAL_S, sessions.ttl_s / 4, jobs.ttl_s / 4)
        self._next_sweep = 0.0

    def start(self) -> None:
        """Begins, until it is closed."""
        self._task = self._background.run("bookkeeping", self._run)

    async def aclose(self) -> None:
        """Flushes a last time."""
        if self._task is not None:
            await self._background.stop(self._task)
        with _kept_in_memory():
            await self._flag.flush()
            await self._programs.flush()
            await self._sessions.flush()

    async def _run(self) -> None:
        interval_s = min(FLUSH_INTERVAL_S, self._sweep_interval_s)
        while True:
            await asyncio.sleep(interval_s)
            with _kept_in_memory():
                await self._flag.flush()
                await self._jobs.keep()
                if time.monotonic() >= self._rests_until:
                    await self._write_counts()
                if time.monotonic() + interval_s > self._next_sweep:  # else the next round would be late
                    await self._sweep()

    async def _sweep(self) -> None:
        await self._jobs.sweep()
        await self._sessions.end_idle()
        self._next_sweep = time.monotonic() + self._sweep_interval_s

    async def _write_counts(self) -> None:
        began = time.monotonic()
        await self._programs.flush()
        await self._sessions.flush()
        now = time.monotonic()
        self._rests_until = now + min(_REST * (now - began), self._longest_rest_s)


@contextmanager
def _kept_in_memory() -> Iterator[None]:
    """A scope in which the store may be down: what could not be written is written the next time."""
    try:
        yield
    except StoreUnavailable as error:
        _log.warning("what is to be written is kept in memory", reason=str(error))
