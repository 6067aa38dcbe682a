"""The bookkeeping in the background: flushes counts, ends idle sessions, keeps jobs, forgets old ones."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from common.background import Background
from routing.catalog.deleted_programs import DeletedPrograms
from routing.catalog.idempotency import IdempotencyKeys
from routing.catalog.jobs import Jobs
from routing.catalog.programs import Programs
from routing.catalog.sessions import Sessions
from routing.errors import StoreUnavailable
from routing.rollout.flag import RolloutFlag

FLUSH_INTERVAL_S = 1.0
"""Interval between two flushes, in seconds. A service that is killed forgets the counts of this time, nothing else."""
_REST = 20
"""Pause after a flush of counts, as a multiple of its duration, up to `_LONGEST_REST_S`.

The pause is longer than `FLUSH_INTERVAL_S` only if tens of thousands of programs and sessions are in use at once, or if
the database is slow. A service that is killed then forgets the counts of up to `_LONGEST_REST_S` and a flush.
"""
_LONGEST_REST_S = 10.0
_SWEEP_INTERVAL_S = 10.0
"""Interval between two sweeps, in seconds. Each holds up the calls for some milliseconds, and rarely finds anything."""
_log = structlog.stdlib.get_logger("poolshift.store")


class Bookkeeping:
    """The steps that write what is dirty and end what has expired. A step that fails keeps no other from running."""

    def __init__(
        self,
        programs: Programs,
        deleted: DeletedPrograms,
        sessions: Sessions,
        jobs: Jobs,
        keys: IdempotencyKeys,
        flag: RolloutFlag,
        background: Background,
    ) -> None:
        self._flag = flag
        self._programs = programs
        self._deleted = deleted
        self._sessions = sessions
        self._jobs = jobs
        self._keys = keys
        self._background = background
        self._task: asyncio.Task[None] | None = None
        self._longest_rest_s = min(_LONGEST_REST_S, sessions.ttl_s / 4)
        self._rests_until = 0.0
        lives_s = (sessions.ttl_s, jobs.ttl_s, keys.ttl_s, deleted.grace_s or sessions.ttl_s)
        self._sweep_interval_s = min(_SWEEP_INTERVAL_S, min(lives_s) / 4)
        self._next_sweep = 0.0
        self._failures: dict[str, str] = {}
        """The unexpected error of each step that failed the last time."""
        self._unwritten: set[str] = set()
        """The steps that the store has refused, until each of them succeeds."""

    def start(self) -> None:
        """Begins; `aclose` ends it."""
        self._task = self._background.run("bookkeeping", self._run)

    async def aclose(self) -> None:
        """Flushes a last time."""
        if self._task is not None:
            await self._background.stop(self._task)
        await self._do(rollback=self._flag.flush_late, programs=self._programs.flush, sessions=self._sessions.flush)

    async def _run(self) -> None:
        interval_s = min(FLUSH_INTERVAL_S, self._sweep_interval_s)
        while True:
            await asyncio.sleep(interval_s)
            await self._do(rollback=self._flag.flush_late, jobs=self._jobs.keep, keys=self._keys.keep)
            if time.monotonic() >= self._rests_until:
                await self._flush_counts()
            if time.monotonic() + interval_s > self._next_sweep:  # else the next round would be late
                await self._sweep()

    async def _sweep(self) -> None:
        if await self._do(
            old_jobs=self._jobs.sweep,
            old_keys=self._keys.sweep,
            idle_sessions=self._sessions.end_idle,
            deleted_programs=self._deleted.sweep,
        ):
            self._next_sweep = time.monotonic() + self._sweep_interval_s

    async def _flush_counts(self) -> None:
        began = time.monotonic()
        if await self._do(programs=self._programs.flush, sessions=self._sessions.flush):
            now = time.monotonic()
            self._rests_until = now + min(_REST * (now - began), self._longest_rest_s)

    async def _do(self, **steps: Callable[[], Awaitable[object]]) -> bool:
        """Runs all steps, whatever they raise; returns whether all went well. A step that failed is tried again."""
        for name, step in steps.items():
            try:
                await step()
            except StoreUnavailable as error:
                if not self._unwritten:
                    _log.warning("what is to be written is kept in memory", reason=str(error))
                self._unwritten.add(name)
            except Exception as error:
                self._failed(name, error)
                continue
            else:
                self._written(name)
            self._failures.pop(name, None)
        return not (self._unwritten | self._failures.keys()) & steps.keys()

    def _written(self, name: str) -> None:
        """Logs that the store takes everything again, once the last step that it had refused succeeds."""
        if name in self._unwritten:
            self._unwritten.discard(name)
            if not self._unwritten:
                _log.info("what was kept in memory is written")

    def _failed(self, name: str, error: Exception) -> None:
        """Logs an unexpected error, unless the step failed with the same error the last time."""
        failure = f"{type(error).__name__}: {error}"
        if self._failures.get(name) != failure:
            self._failures[name] = failure
            _log.error("bookkeeping failed in one step and goes on with the others", step=name, exc_info=error)
