"""Makes V2's specification V1's, without a restart of anything that serves, and keeps that over restarts.

A rotation is a revision of the rollout: it sets 0 % and says which specification V1 has from then on. Each replica
starts a pool of that specification before the revision is in force there, and then puts it in V1's place. Until then
everything stays where it was, which is the same specification: that of V2.
"""

import asyncio

import msgspec
import structlog

from app.positions.difference import PoolIdentity, difference
from app.positions.factory import PoolFactory, PoolSet, RunningPool
from app.problems import Problem
from config.pools import PoolSpec
from config.settings import InvalidSettings, Settings
from pools.errors import SpawnFailed
from pools.process.interface import WorkerSpawner
from routing.catalog.lms import LMs
from routing.catalog.programs import Programs
from routing.errors import PlanConflict
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.rollout.log import RolloutLog
from routing.rollout.model import Change, Rollout, Source
from routing.rotation import RotationStore
from routing.split import BASIS_POINTS
from routing.versions import Version

_log = structlog.stdlib.get_logger("poolshift.rollout")


async def starting_specs(settings: Settings, log: RolloutLog) -> dict[Version, PoolSpec]:
    """Reads the specifications of the pools that run: those of the environment, unless a rotation says otherwise.

    V1 has the specification of the newest rotation for as long as the environment asks for the same V1 as it did at the
    rotation. Once it asks for another one, that wins for good.

    Raises:
        StoreUnavailable: the rollout's log cannot be read.
    """
    specs = {Version(name): settings.pool(name) for name in settings.pool_versions}
    rotation = await log.rotation()
    if Version.V1 not in specs or rotation is None or rotation.v1_pool is None:
        return specs
    if await log.last_seen(Source.ROTATION) == str(rotation.revision):
        return specs
    told = msgspec.json.decode(rotation.v1_pool)
    if PoolSpec.from_json(told["environment"]) != specs[Version.V1]:
        await log.saw(Source.ROTATION, str(rotation.revision))
        _log.warning(
            "V1 has the environment's specification again, since that has changed after the rotation",
            revision=rotation.revision,
        )
        return specs
    specs[Version.V1] = PoolSpec.from_json(told["spec"])
    _log.info(
        "V1 has the specification that a rotation gave it, not the environment's",
        revision=rotation.revision,
        by=rotation.updated_by,
        at=rotation.updated_at.isoformat(timespec="seconds"),
        python=specs[Version.V1].python,
        programs_dir=specs[Version.V1].programs_dir,
    )
    return specs


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
    ) -> None:
        self._settings = settings
        self._pools = pools
        self._factory = factory
        self._flag = flag
        self._store = store
        self._ramp = ramp
        self._programs = programs
        self._lms = lms
        self._rotating = asyncio.Lock()
        self._wake = asyncio.Event()
        flag.listen_to_rotations(self._wake.set)

    async def rotate(self, by: str, reason: str | None) -> Rollout:
        """Gives V1 the specification of V2; returns when V1's new workers serve and the split is at 0 %.

        Raises:
            PlanConflict: the percentage is neither 0 nor 100, a plan is under way, or V2 has at 0 % what V1 has not.
            Problem: `load_failed` if no worker of the specification can be started, `code_outdated` if it would run
                other code than V2 does. Everything is as it was.
            StaleRevision: somebody has changed the rollout meanwhile.
            StoreUnavailable: the rotation could not be written, and has not taken place.
        """
        async with self._rotating:
            self._refuse_amid_ramp()
            expected = self._flag.current.revision
            spec = self._pools.specs[Version.V2]
            pool = await self._started(spec)
            try:
                await self._refuse_untried(pool)
                environment = self._settings.pool("v1")
                told = msgspec.json.encode({"spec": spec.as_json(), "environment": environment.as_json()}).decode()
                change = Change(0, Source.ROTATION, by, reason, v1_pool=told)
                rollout = await self._flag.change(change, expected=expected, append=self._append)
            except BaseException:
                await asyncio.shield(pool.aclose())
                raise
            self._put(pool, rollout.revision)
            return rollout

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
        try:
            pool = await self._started(PoolSpec.from_json(msgspec.json.decode(rotation.v1_pool)["spec"]))
        except BaseException:
            self._wake.set()  # tried again, by the owner of this task
            raise
        self._put(pool, rotation.revision)

    async def _append(self, change: Change, *, after: int) -> Rollout:
        """Writes the rotation with what V1 gets from V2: V2's own definitions, which become everyone's, and its LM."""
        rotated = await self._store.rotate(change, after=after, lm=self._lms.inherited())
        self._programs.take(rotated.programs)
        if rotated.lm is not None:
            self._lms.take(rotated.lm)
        return rotated.rollout

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

    async def _started(self, spec: PoolSpec) -> RunningPool:
        """Starts a pool for V1 beside the one that serves. Raises Problem if its workers do not get ready."""
        try:
            pool = self._factory.make(Version.V1, spec)
        except InvalidSettings as error:
            raise Problem("load_failed", f"V1 keeps its specification: {error}") from None
        try:
            await pool.engine.start()
            await pool.engine.warmed(1.0)
        except BaseException:
            await asyncio.shield(pool.aclose())
            raise
        if not pool.engine.is_ready:
            why = pool.spawner.start_failure or "no worker got ready"
            await pool.aclose()
            raise Problem("load_failed", f"V1 keeps its specification: {why}")
        return pool

    def _put(self, pool: RunningPool, revision: int) -> None:
        """Puts the pool in V1's place and brings the rotation into force, in one step of the event loop."""
        self._pools.replace(Version.V1, pool)
        self._flag.rotated(revision)
        _log.info("rotated: V1 has V2's specification", revision=revision)


async def _runs(spec: PoolSpec, spawner: WorkerSpawner) -> PoolIdentity:
    """Tells the code that workers of a pool run: Python, packages and programs."""
    try:
        description = await spawner.describe()
    except SpawnFailed as error:
        raise Problem("load_failed", f"V1 keeps its specification: {error}") from None
    return PoolIdentity(spec, description.python, description.packages, spawner.revision, None)
