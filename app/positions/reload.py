"""Replaces workers by workers with the code on disk: on SIGHUP, on request, and by itself with `--reload`."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from weakref import WeakKeyDictionary

import structlog

from app.positions.factory import PoolSet
from app.positions.new_code import MAX_NAMED, CodeTrial, Found, ProgramsWouldBreak
from common.tasks import TaskOwner
from pools.errors import NoPreviousCode, PoolClosed, SpawnFailed
from pools.process.interface import Loads, WorkerSpawner
from routing.catalog.programs import CataloguedProgram
from routing.errors import PlanConflict
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.split import BASIS_POINTS
from routing.versions import Version

REFUSALS: Final = (SpawnFailed, NoPreviousCode, PlanConflict)
"""The reasons for which a reload replaces no worker of a pool."""

_log = structlog.stdlib.get_logger("poolshift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A wish for a reload: by whom, why, and how far it may go."""

    by: str
    reason: str | None = None
    is_previous: bool = False
    """The code from before the last reload comes back."""
    is_forced: bool = False
    """Modules that cannot be imported do not keep the code from the workers, nor does a ramp from all pools."""
    may_break_programs: bool = False
    """Programs that the new code does not load do not keep it from the workers."""
    is_told: bool = False
    """The history has it already, from another replica of the machine."""


@dataclass(frozen=True, slots=True)
class Reload:
    """A reload that has replaced the workers of a pool."""

    at: datetime
    asked: Asked
    before: str | None
    """The revision of the code that the workers had."""
    after: str | None
    found: Found


ON_SIGNAL: Final = Asked(by="SIGHUP")
OF_ITSELF: Final = Asked(by="--reload", may_break_programs=True)
"""The wish of a service that follows the disk, as in development: functions are renamed there."""


class CodeReloader:
    """Reloads pools, one request after another. Sessions and counts stay, and no call is lost."""

    def __init__(
        self,
        pools: PoolSet,
        flag: RolloutFlag,
        ramp: RampController,
        programs: Callable[[], Iterable[CataloguedProgram]],
        tasks: TaskOwner,
        *,
        is_automatic: bool,
        try_s: float,
    ) -> None:
        """Takes `is_automatic` if pools follow the code on disk by themselves.

        `programs` returns those of everyone, which new code is tried on for `try_s` seconds.
        """
        self.is_automatic = is_automatic
        self._pools = pools
        self._flag = flag
        self._ramp = ramp
        self._programs = programs
        self._try_s = try_s
        self._tasks = tasks
        self._lock = asyncio.Lock()
        self._attempts: set[asyncio.Task[Exception | None]] = set()
        self._is_asked_soon = False
        self._is_closing = False
        self._last: WeakKeyDictionary[WorkerSpawner, Reload] = WeakKeyDictionary()
        """By the spawner of the pool: after a rotation V1 is another pool."""

    def last(self, version: Version) -> Reload | None:
        """Returns the last reload of the pool that has this position; None if there was none since it started."""
        return self._last.get(self._pools.spawners[version])

    async def reload(self, version: Version, asked: Asked) -> None:
        """Replaces the workers of one pool; returns when all of them have the code that was asked for.

        Raises:
            SpawnFailed: the code cannot be loaded, or not all of the programs (ProgramsWouldBreak).
            NoPreviousCode: the pool keeps no code from before a reload.
            PoolClosed: the service is shutting down.
        """
        await self._to_the_end((version,), asked)

    async def reload_all(self, asked: Asked) -> None:
        """Replaces the workers of all pools, of each pool for which that is possible.

        Raises:
            PlanConflict: the pools are being compared, and nothing is forced. Nothing is replaced.
            SpawnFailed: as `reload`, of the first pool; it names the pools that were reloaded.
            NoPreviousCode, PoolClosed: as `reload`.
        """
        await self._to_the_end(tuple(self._pools.engines), asked)

    def reload_soon(self, asked: Asked) -> None:
        """Reloads all pools in the background, unless a reload of them waits already."""
        if not self._is_asked_soon:
            self._is_asked_soon = True
            self._begin(tuple(self._pools.engines), asked, self._begin_soon)

    def refuse(self) -> None:
        """Ends what is under way, and takes no wish any more: the service is shutting down."""
        self._is_closing = True
        for attempt in self._attempts:
            attempt.cancel()

    def _begin_soon(self) -> None:
        self._is_asked_soon = False  # whoever asks from now on may mean code that this reload does not read

    async def _to_the_end(self, versions: tuple[Version, ...], asked: Asked) -> None:
        if self._is_closing:
            raise PoolClosed
        # A task of its own: the caller may leave, but a reload that has begun is brought to its end.
        attempt = self._begin(versions, asked)
        try:
            failure = await asyncio.shield(attempt)
        except asyncio.CancelledError:
            if attempt.cancelled():
                raise PoolClosed from None
            raise
        if failure is not None:
            raise failure

    def _begin(
        self, versions: tuple[Version, ...], asked: Asked, on_begin: Callable[[], None] = lambda: None
    ) -> asyncio.Task[Exception | None]:
        attempt = self._tasks.start(self._attempt(versions, asked, on_begin))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        return attempt

    async def _attempt(
        self, versions: tuple[Version, ...], asked: Asked, on_begin: Callable[[], None]
    ) -> Exception | None:
        """Logs and returns the failure: nobody may be waiting for it any more."""
        try:
            async with self._lock:
                on_begin()
                await self._reload(versions, asked)
        except REFUSALS as error:
            _log.error("reload failed; the old code stays", error=str(error), **_who_and_why(asked))
            return error
        return None

    async def _reload(self, versions: tuple[Version, ...], asked: Asked) -> None:
        self._refuse(versions, asked)
        _log.info("reloading", pools=[str(version) for version in versions], **_who_and_why(asked))
        reloaded = list(versions)
        before = {version: self._pools.spawners[version].revision for version in versions}
        async with self._ramp.changing(lambda: self._told(reloaded, before, asked)) as cause:
            cause.is_told = asked.is_told
            outcomes = await asyncio.gather(
                *(self._reload_one(version, asked, is_alone=len(versions) == 1) for version in versions),
                return_exceptions=True,
            )
            failures = {str(version): one for version, one in zip(versions, outcomes, strict=True) if one is not None}
            reloaded[:] = [version for version in versions if str(version) not in failures]
            for version in reloaded:
                self._tell(version)
            if not reloaded:
                cause.withdraw()
        if failures:
            raise _failure_of(failures, reloaded)

    def _told(self, versions: Sequence[Version], before: Mapping[Version, str | None], asked: Asked) -> str:
        """Says for the history who reloads which pools, from which code to which, and why."""
        pools = " and ".join(self._told_of(version, before[version]) for version in versions)
        did = "brought back the previous code of" if asked.is_previous else "reloaded"
        return f"{asked.by} {did} {pools}" + (f": {asked.reason}" if asked.reason else "")

    def _told_of(self, version: Version, before: str | None) -> str:
        after = self._pools.spawners[version].revision
        return f"{version} (the same code, {after})" if after == before else f"{version} (code {before} to {after})"

    async def _reload_one(self, version: Version, asked: Asked, *, is_alone: bool) -> None:
        pool, spawner = self._pools.engines[version], self._pools.spawners[version]
        before, found = spawner.revision, Found()

        async def try_out(new: Loads, present: Loads) -> None:
            nonlocal found
            found = await CodeTrial(self._programs(), version, self._try_s).run(new, present)
            if found.broken and not asked.may_break_programs:
                raise ProgramsWouldBreak(found.broken)
            if not is_alone and not asked.is_forced:
                self._refuse_amid_ramp()  # a ramp may have begun meanwhile

        if asked.is_previous:
            await pool.bring_back()
        else:
            await pool.reload(try_out, is_forced=asked.is_forced)
        self._last[spawner] = Reload(datetime.now(UTC), asked, before, spawner.revision, found)

    def _tell(self, version: Version) -> None:
        done = self.last(version)
        if done is None:
            return  # a rotation has put another pool there meanwhile
        found = done.found
        revisions = {"before": done.before, "after": done.after}
        counts = {"tried": found.tried, "untried": found.untried}
        _log.info("reloaded", pool_version=version, **revisions, **counts, **_who_and_why(done.asked))
        if found.broken:
            names = [one.program_id for one in found.broken[:MAX_NAMED]]
            _log.warning("programs do not load with the new code", pool_version=version, program_ids=names)

    def _refuse(self, versions: Sequence[Version], asked: Asked) -> None:
        """Raises PlanConflict, NoPreviousCode."""
        if len(versions) > 1 and not asked.is_forced:
            self._refuse_amid_ramp()
        for version in versions if asked.is_previous else ():
            if self._pools.spawners[version].previous_revision is None:
                raise NoPreviousCode(f"{version} keeps no code from before a reload: none has brought other code yet")

    def _refuse_amid_ramp(self) -> None:
        """Raises PlanConflict while both pools get calls, or a plan compares them."""
        if len(self._pools.engines) < len(Version):
            return
        if self._ramp.ramp.state.is_under_way:
            why = f"a plan is under way ({self._ramp.ramp.state})"
        elif 0 < self._flag.current.canary_basis_points < BASIS_POINTS:
            why = f"V2 gets {self._flag.current.canary_percent:g} %"
        else:
            return
        raise PlanConflict(
            f"{why}: a reload of all pools would renew V1 too, which a rollback goes to. Reload one pool "
            "(`poolshift pools reload v2`), or force it with a reason"
        )


def _who_and_why(asked: Asked) -> dict[str, object]:
    return {"by": asked.by, "reason": asked.reason, "previous": asked.is_previous, "forced": asked.is_forced}


def _failure_of(failures: Mapping[str, BaseException], reloaded: Sequence[str]) -> BaseException:
    """Returns what a reload of one pool raised; of several, the first refusal, which names all pools."""
    first = next(iter(failures.values()))
    unforeseen = [one for one in failures.values() if not isinstance(one, REFUSALS)]
    if unforeseen:
        return unforeseen[0]
    if len(failures) + len(reloaded) == 1 or not isinstance(first, SpawnFailed):
        return first
    told = [f"{name}: {error}" for name, error in failures.items()]
    return SpawnFailed("; ".join([*told, *(f"{name} is reloaded" for name in reloaded)]))
