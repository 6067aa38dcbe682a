"""Makes pools from their specifications, and holds the ones that run."""

import asyncio
import math
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import structlog

import poolshift
from app.replicas.replica import Replica, part_of
from common import own_process
from common.background import Background
from common.tasks import TaskOwner
from config.pools import PoolSpec, listed
from config.settings import Settings
from config.worker_environment import digest_of, variables_of
from pools.async_pool import AsyncPool
from pools.engine import Engine, PoolOptions
from pools.errors import SpawnFailed
from pools.process.host import LocalHost
from pools.process.interface import WorkerSpawner
from pools.process.interpreter import Interpreter
from pools.process.program_code import ProgramCode, Seeds
from pools.process.spawner import Spawner
from pools.protocol import PoolObserver
from pools.ray.driver_messages import Plan
from pools.session_pool import SessionPool
from pools.session_pool_v2 import SessionPoolV2
from pools.supervisor import MIB, RecycleLimits
from pools.warming import DEFAULT_MAX_RSS_BYTES, WarmOptions
from poolshift.worker.lm import NONE
from poolshift.worker.loading import DSPY_PROGRAMS
from routing.catalog.warm_list import WarmList
from routing.versions import Version

OTHER_POOL_START_S: Final = 10.0
"""The longest time that the start waits for a pool that need not serve, in seconds."""

_ENGINES: Mapping[str, type[Engine]] = MappingProxyType(
    {"session_pool": SessionPool, "session_pool_v2": SessionPoolV2, "async_pool": AsyncPool}
)
_log = structlog.stdlib.get_logger("poolshift")


@dataclass(frozen=True, slots=True)
class RunningPool:
    """A pool with the specification that it was made from and the spawner of its workers."""

    spec: PoolSpec
    variables: str
    """A digest of the variables of the specification's file."""
    spawner: WorkerSpawner
    engine: Engine

    async def aclose(self) -> None:
        """Ends the calls and the workers of the pool."""
        await self.engine.aclose()
        await self.spawner.aclose()


@dataclass(frozen=True, slots=True)
class KeptPool:
    """The pool that a rotation has replaced: no workers, and the spawner that forks them from the code of then."""

    rotation: int
    """The revision of the rotation."""
    spec: PoolSpec
    variables: str
    spawner: WorkerSpawner


class PoolFactory:
    """Makes the pool of a version from a specification."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        observer: PoolObserver,
        background: Background,
        warm_list: WarmList,
        replica: Replica | None = None,
    ) -> None:
        """Takes as `environment` what the workers of all pools see of the service's environment.

        With a `replica` each pool has this replica's part of the size that the specification asks for.
        """
        self._part = part_of(replica)
        self._hear = None if replica is None else replica.hear
        self._settings = settings
        self._warm_list = warm_list
        self._environment = environment
        self._observer = observer
        self._background = background

    def make(self, version: Version, spec: PoolSpec) -> RunningPool:
        """Makes a pool without starting it.

        Raises:
            InvalidSettings: the file with the workers' variables cannot be read.
        """
        variables = _variables_of(spec)
        code, environment = self._code(spec), self._environment_of(spec, variables)
        warm = self._warm_options(version, spec)
        spawner: WorkerSpawner
        if spec.workers == "ray":
            # Imported here, since a service whose workers are all on its machine does without.
            from pools.ray.spawner import RaySpawner  # noqa: PLC0415

            plan = _ray_plan(self._settings, version, self._part(spec.pool_size))
            spawner = RaySpawner(
                code,
                environment,
                plan,
                inherited=os.environ,
                background=self._background,
                user=self._settings.worker_user_ids,
                seeds=self._seeds(warm),
            )
        else:
            spawner = Spawner(
                code,
                environment,
                background=self._background,
                user=self._settings.worker_user_ids,
                seeds=self._seeds(warm),
            )
        return RunningPool(spec, digest_of(variables), spawner, self._engine(version, spec, spawner))

    def revive(self, version: Version, kept: KeptPool) -> RunningPool:
        """Makes a pool again whose spawner was kept, without starting it."""
        return RunningPool(kept.spec, kept.variables, kept.spawner, self._engine(version, kept.spec, kept.spawner))

    def _engine(self, version: Version, spec: PoolSpec, spawner: WorkerSpawner) -> Engine:
        options = _options(self._settings, spec, self._warm_options(version, spec), self._part)
        engine = _ENGINES[spec.engine](version, options, spawner, self._observer, self._background)
        engine.hear = self._hear
        return engine

    async def check_modules(self, spec: PoolSpec) -> None:
        """Imports the modules of the programs as a worker of such a pool would, if that is on this machine.

        Raises:
            InvalidProgramModules: names each module that cannot be imported.
            SpawnFailed: no process could be started for that.
        """
        if spec.workers == "ray":
            return
        code = self._code(spec)
        host = LocalHost(code, self._environment_of(spec, _variables_of(spec)))
        await host.check_modules(code.allowed_modules, self._settings.worker_user_ids)

    def _warm_options(self, version: Version, spec: PoolSpec) -> WarmOptions:
        """The programs to warm workers for: none in a pool that `POOL_VERSION` keeps without calls."""
        settings, rss_mb = self._settings, spec.worker_max_rss_mb
        if settings.pool_version not in (None, version.value) or not settings.warm_timeout_s:
            return WarmOptions()
        return WarmOptions(
            partial(self._warm_list.of, version),
            settings.warm_timeout_s,
            DEFAULT_MAX_RSS_BYTES if rss_mb is None else rss_mb * MIB // 2,
        )

    def _seeds(self, warm: WarmOptions) -> Seeds:
        """The modules of these programs, for the first zygote of a pool."""
        return Seeds(tuple(program.definition for program in warm.programs()), warm.timeout_s)

    def _environment_of(self, spec: PoolSpec, variables: Mapping[str, str]) -> dict[str, str]:
        environment = {**self._environment, **variables}
        if spec.programs_dir is not None:
            path = [spec.programs_dir, environment.get("PYTHONPATH")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        return environment

    def _code(self, spec: PoolSpec) -> ProgramCode:
        own_preload = ["poolshift.worker.tracing.preload"] if self._settings.exports_traces else []
        if self._settings.lm_models - {NONE}:
            own_preload.append(DSPY_PROGRAMS)
        return ProgramCode(
            interpreter=Interpreter(spec.python, self._settings.setting_of_python(spec.python)),
            programs_dir=None if spec.programs_dir is None else Path(spec.programs_dir),
            allowed_modules=self._settings.allowed_modules,
            own_root=own_process.ROOT,
            own_preload=tuple(own_preload),
            preload=spec.preload,
            load_timeout_s=self._settings.load_timeout_s,
            is_shared=spec.engine == "async_pool",
        )


class PoolSet:
    """The pools that run. Everyone shares its mappings, so that a pool which is replaced is replaced for all."""

    def __init__(self, drain_timeout_s: float) -> None:
        """`drain_timeout_s` is the time that calls on a pool which was replaced have to end, in seconds."""
        self.engines: dict[Version, Engine] = {}
        self.spawners: dict[Version, WorkerSpawner] = {}
        self.specs: dict[Version, PoolSpec] = {}
        self.variables: dict[Version, str] = {}
        """By version: a digest of the variables of the specification's file, as the pool has them."""
        self.kept: KeptPool | None = None
        """The V1 of before the last rotation, if this replica has followed that since it runs."""
        self._drain_timeout_s = drain_timeout_s
        self._refuses = False
        self._retired: set[RunningPool] = set()
        self._tasks = TaskOwner("retired pools", is_detached=True)

    def all_engines(self) -> list[Engine]:
        """The pools that serve, and those that end the calls which they had when they were replaced."""
        return [*self.engines.values(), *(pool.engine for pool in self._retired)]

    def put(self, version: Version, pool: RunningPool) -> None:
        """Makes `pool` the one that serves `version`."""
        self.engines[version], self.spawners[version] = pool.engine, pool.spawner
        self.specs[version], self.variables[version] = pool.spec, pool.variables

    def replace(self, version: Version, pool: RunningPool, *, rotation: int | None = None) -> Engine:
        """Puts a started pool in the place of another, which ends its calls and then its workers; returns its engine.

        With `rotation`, the revision of one, the spawner of the former pool is kept for the way back. Otherwise none
        is kept any more.
        """
        before = RunningPool(
            self.specs[version], self.variables[version], self.spawners[version], self.engines[version]
        )
        dropped, self.kept = self.kept, None
        if rotation is not None and before.spec.workers == "local":
            self.kept = KeptPool(rotation, before.spec, before.variables, before.spawner)
        self.put(version, pool)
        if self._refuses:
            pool.engine.refuse()
        self._retired.add(before)
        self._tasks.start(self._retire(before))
        if dropped is not None and not self._uses(dropped.spawner) and not self._retires(dropped.spawner):
            self._tasks.start(dropped.spawner.aclose())
        return before.engine

    async def _retire(self, pool: RunningPool) -> None:
        pool.engine.refuse()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout_s):
                await pool.engine.drain()
        await pool.engine.aclose()
        if not self._uses(pool.spawner):
            await pool.spawner.aclose()
        self._retired.discard(pool)

    def _uses(self, spawner: WorkerSpawner) -> bool:
        """Tells if a spawner is kept, or serves again."""
        return spawner in self.spawners.values() or (self.kept is not None and self.kept.spawner is spawner)

    def _retires(self, spawner: WorkerSpawner) -> bool:
        """Tells if a spawner has workers of a pool that ends its last calls: with these it ends, too."""
        return any(pool.spawner is spawner for pool in self._retired)

    async def start(self, serving: Version) -> None:
        """Starts all pools. A pool other than the `serving` one is waited for no longer than `OTHER_POOL_START_S`.

        Raises:
            SpawnFailed: the serving pool's interpreter cannot run workers, its folder of programs is not there, or a
                module of `PRELOAD` cannot be imported. Workers that fail for other reasons are started again.
        """
        others = [self._start_other(version) for version in self.engines if version is not serving]
        await asyncio.gather(self.engines[serving].start(), *others)
        failure = self.spawners[serving].start_failure
        if failure is not None:
            raise SpawnFailed(failure)

    async def _start_other(self, version: Version) -> None:
        try:
            async with asyncio.timeout(OTHER_POOL_START_S):
                await self.engines[version].start()
        except TimeoutError:
            _log.warning("pool is not ready yet; the service starts without it", pool_version=version)

    def refuse(self) -> None:
        """Takes no new calls any more, neither on these pools nor on one that comes in the place of another."""
        self._refuses = True
        for engine in self.all_engines():
            engine.refuse()

    async def drain(self) -> None:
        """Waits until no call is queued or runs on any pool."""
        # A change of the rollout still moves calls from one to the other, and a rotation may bring one.
        while not all(engine.is_drained for engine in self.all_engines()):
            await asyncio.gather(*(engine.drain() for engine in self.all_engines()))

    async def aclose_engines(self) -> None:
        """Ends what still runs, and all workers."""
        await asyncio.gather(*(engine.aclose() for engine in self.all_engines()))

    async def aclose(self) -> None:
        """Ends all pools, and then their spawners."""
        await self._tasks.aclose()
        await asyncio.gather(*(engine.aclose() for engine in self.all_engines()))
        spawners = {*self.spawners.values(), *(pool.spawner for pool in self._retired)}
        if self.kept is not None:
            spawners.add(self.kept.spawner)
        await asyncio.gather(*(spawner.aclose() for spawner in spawners))


def _variables_of(spec: PoolSpec) -> dict[str, str]:
    return {} if spec.worker_env_file is None else variables_of(Path(spec.worker_env_file))


def _ray_plan(settings: Settings, version: Version, size: int) -> Plan:
    """Divides the pool's size among agents, under a name that no other service on the cluster has."""
    per_node = settings.ray_workers_per_node
    agents = math.ceil(size / per_node)
    return Plan(
        address=settings.ray_address,
        namespace=f"poolshift-{uuid.uuid4().hex[:12]}-{version}",
        slots=[min(per_node, size - number * per_node) for number in range(agents)],
        cpus_per_worker=settings.ray_cpus_per_worker,
        code=str(Path(poolshift.__file__).parent),
        requirements=list(listed(settings.ray_requirements)),
    )


def _options(settings: Settings, spec: PoolSpec, warm: WarmOptions, part: Callable[[int], int]) -> PoolOptions:
    rss_mb = spec.worker_max_rss_mb
    return PoolOptions(
        size=part(spec.pool_size),
        queue_limit=part(settings.queue_limit),
        checkout_timeout_s=settings.checkout_timeout_s,
        recycle=RecycleLimits(
            executions=spec.worker_max_executions,
            rss_bytes=None if rss_mb is None else rss_mb * MIB,
            age_s=spec.worker_max_age_s,
        ),
        load_timeout_s=settings.load_timeout_s,
        warm=warm,
        worker_concurrency=spec.worker_concurrency,
    )
