"""Makes V2's specification V1's, without a restart of anything that serves, and takes that back.

A rotation is a revision of the rollout: it sets 0 % and says which specification V1 has from then on. Each replica
starts a pool of that specification before the revision is in force there, and then puts it in V1's place. Until then
everything stays where it was, which is the same specification: that of V2. A rotation that takes another one back is
followed in the same way.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import structlog

from app.positions.difference import PoolIdentity, difference
from app.positions.factory import PoolFactory, PoolSet, RunningPool
from app.positions.identity import PoolParts, pools_difference
from app.positions.starting import RotatedV1
from app.positions.way_back import refuse_broken, told_back, undoable
from app.problems import Problem
from config.pools import PoolSpec
from config.settings import InvalidSettings, Settings
from pools.calls import Call
from pools.errors import SpawnFailed
from pools.process.interface import WorkerSpawner
from routing.catalog.lms import Holder, LMs
from routing.catalog.programs import Programs
from routing.errors import PlanConflict, StaleRevision
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.rollout.log import Append
from routing.rollout.model import Change, Rollout, Source
from routing.rotation.store import Former, RotationStore, TakenBack
from routing.rotation.trial import End, Outcome, Trials
from routing.split import BASIS_POINTS
from routing.versions import Version

_log = structlog.stdlib.get_logger("poolshift.rollout")


class Rotation:
    """Rotates the pools of this replica, on request and when another replica has done so."""

    def __init__(
        self,
        settings: Settings,
        pools: PoolSet,
        factory: PoolFactory,
        flag: RolloutFlag,
        store: RotationStore,
        ramp: RampController,
        programs: Programs,
        lms: LMs,
        trials: Trials,
    ) -> None:
        self._settings = settings
        self._pools = pools
        self._factory = factory
        self._flag = flag
        self._store = store
        self._ramp = ramp
        self._programs = programs
        self._lms = lms
        self._trials = trials
        self._rotating = asyncio.Lock()
        self._wake = asyncio.Event()
        flag.listen_to_rotations(self._wake.set)

    async def rotate(self, by: str, reason: str | None, *, is_unproven: bool = False) -> Rollout:
        """Gives V1 the specification of V2; returns when V1's new workers serve and the split is at 0 %.

        `is_unproven` is the word of an admin, who has a reason, to do so without evidence that V2 has been tried.

        Raises:
            PlanConflict: the percentage is neither 0 nor 100, a plan is under way, V2 has at 0 % what V1 has not, or
                V2 has not been tried.
            Problem: `load_failed` if no worker of the specification can be started, `code_outdated` if it would run
                other code than V2 does. Everything is as it was.
            StaleRevision: somebody has changed the rollout meanwhile.
            StoreUnavailable: the rotation could not be written, and has not taken place.
        """
        async with self._rotating:
            await self._catch_up()
            self._refuse_amid_ramp()
            expected = self._flag.current.revision
            await self._refuse_same()
            tried = await self._trials.identity()
            if not is_unproven:
                await self._refuse_unproven()
            spec = self._pools.specs[Version.V2]
            pool = await self._started(self._made(spec))
            try:
                await self._refuse_untried(pool)
                told = RotatedV1(
                    spec=spec.as_json(),
                    environment=self._settings.pool("v1").as_json(),
                    gave_lm=self._lms.inherited() is not None,
                )
                former = Former(
                    self._pools.specs[Version.V1].as_json(), self._pools.spawners[Version.V1].revision, tried
                )
                why = await self._told(reason, is_unproven=is_unproven)
                change = Change(0, Source.ROTATION, by, why, v1_pool=told.as_json())
                rollout = await self._flag.change(change, expected=expected, append=partial(self._append, former))
            except BaseException:
                await asyncio.shield(self._discard(pool))
                raise
            self._put(pool, rollout)
            return rollout

    async def unrotate(self, by: str, reason: str | None, *, is_forced: bool = False) -> TakenBack:
        """Takes the newest rotation back: V1 is what it was before, and V2 has its own definitions again, at 0 %.

        Returns when V1's workers serve. They run the code that V1 had loaded before the rotation. After a restart of
        the service they run the code that is on disk, if that loads the programs, or if `is_forced`.

        Raises:
            PlanConflict: there is nothing to take back, or a plan is under way.
            Problem: `load_failed` if no worker of the former specification can be started, or the code on disk does not
                load the programs; `stale_revision` if V2 has got a share meanwhile. Everything is as it was.
            StoreUnavailable: it could not be written, and has not taken place.
        """
        async with self._rotating:
            await self._catch_up()
            self._refuse_under_way()
            rotation, former = undoable(await self._store.last())
            spec = PoolSpec.from_json(dict(former.spec))
            expected = self._flag.current.revision
            pool = await self._started(self._former(rotation.revision, spec))
            try:
                if not is_forced and not self._is_kept(pool):
                    await self._refuse_broken(pool, rotation.revision)
                why = told_back(rotation, former, pool.spawner.revision, reason, is_forced=is_forced)
                end = End(Outcome.UNROTATED, by, reason, datetime.now(UTC))
                back: list[TakenBack] = []
                append = partial(self._append_back, spec, rotation.revision, end, back)
                change = Change(0, Source.ROTATION, by, why)
                rollout = await self._change_back(change, append, expected)
            except BaseException:
                await asyncio.shield(self._discard(pool))
                raise
            self._put(pool, rollout)
            return back[0]

    async def _change_back(self, change: Change, append: Append, expected: int) -> Rollout:
        """Writes that a rotation is taken back, after whatever else has sent all calls to V1 since `expected`."""
        while True:
            self._refuse_under_way()
            try:
                return await self._flag.change(change, expected=expected, append=append)
            except StaleRevision:
                await self._flag.flush()
                newer = self._flag.current
                if newer.canary_basis_points or newer.revision == expected:
                    told = f"V2 has got {newer.canary_percent:g} % meanwhile (revision {newer.revision})"
                    raise Problem(
                        "stale_revision",
                        f"{told}: V1 is unchanged; decide again, and repeat",
                        extensions={"revision": newer.revision},
                    ) from None
                expected = newer.revision

    async def flush(self) -> None:
        """Writes the calls that V2 has served on this replica, for a rotation on another. Raises StoreUnavailable."""
        await self._trials.flush()

    async def follow(self) -> None:
        """Follows the rotations of other replicas until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._rotating:
                await self._catch_up()

    async def _catch_up(self) -> None:
        rotation = await self._store.newest()
        if rotation is None or rotation.v1_pool is None or rotation.revision <= self._flag.rotated_to:
            return
        told = RotatedV1.of(rotation)
        spec = PoolSpec.from_json(told.spec)
        if (told.takes_back or 0) > self._flag.rotated_to and self._pools.specs[Version.V1] == spec:
            self._flag.rotated(rotation.revision)  # the rotation that is taken back has never come here
            return
        try:
            former = told.takes_back
            pool = await self._started(self._made(spec) if former is None else self._former(former, spec))
        except BaseException:
            self._wake.set()  # tried again, by the owner of this task
            raise
        self._put(pool, rotation)

    async def _append(self, former: Former, change: Change, *, after: int) -> Rollout:
        """Writes the rotation with what V1 gets from V2: V2's own definitions, which become everyone's, and its LM."""
        rotated = await self._store.rotate(change, after=after, lm=self._lms.inherited(), former=former)
        self._programs.take(rotated.programs)
        if rotated.lm is not None:
            self._lms.take(rotated.lm)
        return rotated.rollout

    async def _append_back(
        self, spec: PoolSpec, rotation: int, end: End, back: list[TakenBack], change: Change, *, after: int
    ) -> Rollout:
        """Writes that a rotation is taken back, with the definitions and the LM that V1 has again."""
        told = RotatedV1(spec=spec.as_json(), environment=self._settings.pool("v1").as_json(), takes_back=rotation)
        change = replace(change, v1_pool=told.as_json())
        taken = await self._store.take_back(change, after=after, rotation=rotation, end=end)
        self._programs.take(taken.programs)
        if taken.lm is not None:
            self._lms.take(taken.lm)
        elif taken.has_lm:
            self._lms.drop(Holder(version=Version.V1))
        back.append(taken)
        return taken.rollout

    def _refuse_amid_ramp(self) -> None:
        points = self._flag.current.canary_basis_points
        if points not in (0, BASIS_POINTS):
            percent = self._flag.current.canary_percent
            raise PlanConflict(f"V2 gets {percent:g} %: a rotation takes 0 % or 100 %")
        own = "definitions" if self._programs.count_own() else "an LM" if self._lms.is_on_trial else None
        if own is not None and points == 0:
            raise PlanConflict(f"V2 has {own} of its own at 0 %: give V2 100 % first, or take back what it has")
        if not self._lms.may_keep(Version.V2):
            told = "has a key from the environment, which is not stored: set it by PUT /lm?pool_version=v1 first"
            raise PlanConflict(f"V2's LM {told}")
        if self._ramp.ramp.state.is_under_way:
            raise PlanConflict(f"a plan is under way ({self._ramp.ramp.state}): abort it, or promote V2")

    def _refuse_under_way(self) -> None:
        if self._ramp.ramp.state.is_under_way:
            raise PlanConflict(f"a plan is under way ({self._ramp.ramp.state}): abort it first")

    async def _refuse_broken(self, pool: RunningPool, rotation: int) -> None:
        former = await self._store.former_definitions(rotation)
        present, limit_s = self._pools.spawners[Version.V1], self._settings.reload_check_timeout_s
        await refuse_broken(pool, present, self._programs.of_everyone(), former, limit_s)

    async def _refuse_untried(self, pool: RunningPool) -> None:
        """Refuses a pool for V1 that is not what V2 is: its interpreter, folder or file has changed since V2 started.

        All calls would go to code that no call has tried, and V2 would still run what had passed.
        """
        if pool.variables != self._pools.variables[Version.V2]:
            raise PlanConflict(
                f"{pool.spec.worker_env_file} has other variables than V2 was started with: restart the service, so "
                "that V2 tries them, or put the file back"
            )
        running = self._pools.spawners[Version.V2]
        v2, found = await asyncio.gather(_runs(pool.spec, running), _runs(pool.spec, pool.spawner))
        changed = difference(v2, found)
        if changed.changes or changed.packages:
            raise Problem(
                "code_outdated",
                f"V2 runs other code than is there now ({changed.summary}): `poolshift pools reload v2` first, so that "
                "V2 tries it",
                extensions={"on_disk": pool.spawner.revision, "of_workers": running.revision},
            )

    async def _refuse_same(self) -> None:
        """Refuses a rotation that changes nothing: it would drop the way back from the one before it."""
        variables, specs, spawners = self._pools.variables, self._pools.specs, self._pools.spawners
        if self._programs.count_own() or self._lms.is_on_trial or variables[Version.V1] != variables[Version.V2]:
            return
        v1, v2 = await asyncio.gather(*(_runs(specs[version], spawners[version]) for version in Version))
        changed = difference(v1, v2)
        if not changed.changes and not changed.packages:
            raise PlanConflict("V1 is what V2 is already, and a rotation changes nothing")

    async def _refuse_unproven(self) -> None:
        """Refuses a rotation to a V2 that has not been tried. Raises PlanConflict."""
        trial = await self._trials.of_v2()
        if not trial.is_proven:
            word = "an admin may rotate all the same, with `unproven` and a reason"
            raise PlanConflict(f"{trial.told}. Try it by a plan first; {word}")

    async def _told(self, reason: str | None, *, is_unproven: bool) -> str:
        """Says what a rotation changes, for the history."""
        changes = (await pools_difference(PoolParts(self._pools, self._lms, self._programs))).summary
        told = f"{reason} ({changes})" if reason else changes
        return f"unproven: {told}" if is_unproven else told

    def _made(self, spec: PoolSpec) -> RunningPool:
        """Makes a pool for V1. Raises Problem if the file with its variables cannot be read."""
        try:
            return self._factory.make(Version.V1, spec)
        except InvalidSettings as error:
            raise Problem("load_failed", f"V1 keeps its specification: {error}") from None

    def _former(self, rotation: int, spec: PoolSpec) -> RunningPool:
        """Makes the pool of before a rotation: from its spawner if that is kept, else from disk."""
        kept = self._pools.kept
        if kept is None or kept.rotation != rotation or kept.spec != spec:
            return self._made(spec)
        return self._factory.revive(Version.V1, kept)

    def _is_kept(self, pool: RunningPool) -> bool:
        kept = self._pools.kept
        return kept is not None and kept.spawner is pool.spawner

    async def _started(self, pool: RunningPool) -> RunningPool:
        """Starts a pool for V1 beside the one that serves. Raises Problem if its workers do not get ready."""
        try:
            await pool.engine.start()
            if not await pool.engine.warmed(1.0):
                _log.warning(
                    "V1 is rotated although it has too few warm workers", warm_workers=pool.engine.warm_workers
                )
        except BaseException:
            await asyncio.shield(self._discard(pool))
            raise
        if not pool.engine.is_ready:
            why = pool.spawner.start_failure or "no worker got ready"
            await self._discard(pool)
            raise Problem("load_failed", f"V1 keeps its specification: {why}")
        return pool

    async def _discard(self, pool: RunningPool) -> None:
        """Ends a pool that does not get V1's place. A spawner that is kept stays kept."""
        if self._is_kept(pool):
            await pool.engine.aclose()
        else:
            await pool.aclose()

    def _put(self, pool: RunningPool, rotation: Rollout) -> None:
        """Puts the pool in V1's place and brings the rotation into force, in one step of the event loop.

        Calls that wait for the former V1 go to the new one, unless their definition is no longer the one in force.
        """
        takes_back = RotatedV1.of(rotation).takes_back
        keeps = rotation.revision if takes_back is None else None
        before = self._pools.replace(Version.V1, pool, rotation=keeps)
        self._flag.rotated(rotation.revision)
        before.withdraw(self._runs_as_is)
        if takes_back is None:
            _log.info("rotated: V1 has V2's specification", revision=rotation.revision)
        else:
            _log.info("unrotated: V1 has its former specification", revision=rotation.revision, takes_back=takes_back)

    def _runs_as_is(self, call: Call) -> bool:
        now = self._programs.resolve(call.program.id, call.session_id)
        return now is not None and (now.key, now.revision) == (call.program.key, call.program.revision)


async def _runs(spec: PoolSpec, spawner: WorkerSpawner) -> PoolIdentity:
    """Tells the code that workers of a pool run: Python, packages and programs."""
    try:
        description = await spawner.describe()
    except SpawnFailed as error:
        raise Problem("load_failed", f"V1 keeps its specification: {error}") from None
    return PoolIdentity(spec, description.python, description.packages, spawner.revision, None)
