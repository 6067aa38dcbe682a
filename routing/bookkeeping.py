"""What is done behind the calls: counts go to the store, idle sessions end, long runs are kept and forgotten."""

import asyncio

import structlog

from pools.tasks import TaskOwner
from routing.errors import StoreUnavailable
from routing.executions import Executions
from routing.programs import Programs
from routing.rollout import RolloutFlag
from routing.sessions import Sessions

FLUSH_INTERVAL_S = 1.0
"""A service that is killed forgets the counts of so long, and nothing else."""
_log = structlog.stdlib.get_logger("poolshift.store")


class Bookkeeping:
    """The background work on programs, sessions, long runs, and a rollback that could not be written down before."""

    def __init__(self, programs: Programs, sessions: Sessions, executions: Executions, flag: RolloutFlag) -> None:
        self._flag = flag
        self._programs = programs
        self._sessions = sessions
        self._executions = executions
        self._tasks = TaskOwner("bookkeeping")

    def start(self) -> None:
        """Begins, until it is closed."""
        self._tasks.start(self._run())

    async def aclose(self) -> None:
        """Flushes a last time."""
        await self._tasks.aclose()
        await self._flush(is_last=True)

    async def _run(self) -> None:
        interval_s = min(FLUSH_INTERVAL_S, self._sessions.ttl_s / 2, self._executions.ttl_s / 2)
        while True:
            await asyncio.sleep(interval_s)
            await self._flush()

    async def _flush(self, *, is_last: bool = False) -> None:
        try:
            await self._flag.settle()
            await self._programs.flush()
            await self._sessions.flush()
            if not is_last:
                await self._sessions.end_idle()
                await self._executions.keep()
        except StoreUnavailable as error:
            _log.warning("what is to be written is kept in memory", reason=str(error))
