"""Replaces workers by workers with the code on disk: on SIGHUP, on request, and by itself with `--reload`."""

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from common.tasks import TaskOwner
from pools.errors import SpawnFailed
from pools.protocol import Pool
from routing.rollout.controller import RampController
from routing.versions import Version

_log = structlog.stdlib.get_logger("poolshift")


class CodeReloader:
    """Reloads pools, one request after another. Sessions and counts stay, and no call is lost."""

    def __init__(
        self, pools: Mapping[Version, Pool], ramp: RampController, tasks: TaskOwner, *, is_automatic: bool
    ) -> None:
        """Takes `is_automatic` if pools follow the code on disk by themselves."""
        self.is_automatic = is_automatic
        self._pools = pools
        self._ramp = ramp
        self._tasks = tasks
        self._lock = asyncio.Lock()
        self._soon: asyncio.Task[None] | None = None

    async def reload(self, versions: Iterable[Version]) -> None:
        """Replaces the workers of these pools; returns when all of them have the code that is on disk now.

        Raises:
            SpawnFailed: the code cannot be preloaded; the workers of that pool are as they were.
        """
        # A task of its own: the caller may leave, but a reload that has begun is brought to its end.
        failure = await asyncio.shield(self._tasks.start(self._attempt(tuple(versions))))
        if failure is not None:
            raise failure

    def reload_soon(self) -> None:
        """Reloads all pools in the background, unless a reload waits or runs already."""
        if self._soon is None or self._soon.done():
            self._soon = self._tasks.start(self._attempt(tuple(self._pools)))

    async def _attempt(self, versions: tuple[Version, ...]) -> SpawnFailed | None:
        """Logs and returns the failure: nobody may be waiting for it any more."""
        try:
            await self._reload(versions)
        except SpawnFailed as error:
            _log.error("reload failed; the old code stays", reason=str(error))
            return error
        return None

    async def _reload(self, versions: tuple[Version, ...]) -> None:
        async with self._lock:
            _log.info("reloading", pools=[str(version) for version in versions])
            outcomes = await asyncio.gather(
                *(self._pools[version].reload() for version in versions), return_exceptions=True
            )
            reloaded = [version for version, outcome in zip(versions, outcomes, strict=True) if outcome is None]
            if reloaded:
                _log.info("reloaded", pools=[str(version) for version in reloaded])
                await self._ramp.restart_evidence("the code was reloaded")
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome
