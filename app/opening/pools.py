"""Opens the pools and the local model, which start at once."""

import asyncio
from collections.abc import Mapping
from functools import partial

from app.local_lm.process import LocalLMServer
from app.opening.opening import Opening
from app.positions.factory import PoolFactory, PoolSet
from app.positions.reload import OF_ITSELF, CodeReloader
from app.positions.starting import starting_specs
from poolshift.worker.lm import LOCAL
from routing.catalog.lms import LMs
from routing.catalog.programs import Programs
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.versions import Version
from store.rollout_log import SqlRolloutLog


def open_local_lm(opening: Opening, environment: Mapping[str, str]) -> LocalLMServer | None:
    """Opens the small model of this machine, if the settings ask for it."""
    if LOCAL not in opening.settings.lm_models:
        return None
    local_lm = LocalLMServer(environment, opening.background)
    opening.at_end(local_lm.aclose)
    return local_lm


async def open_pools(opening: Opening, factory: PoolFactory, log: SqlRolloutLog, lms: LMs) -> PoolSet:
    """Makes the pools, as the environment or the last rotation has them, without starting them.

    Raises:
        InvalidSettings: the environment asks for another V1 than the rotation has made.
    """
    pools = PoolSet(opening.settings.drain_timeout_s)
    opening.at_end(pools.aclose)
    for version, spec in (await starting_specs(opening.settings, log, lms)).items():
        pools.put(version, factory.make(version, spec))
    return pools


async def start_pools(
    pools: PoolSet, factory: PoolFactory, pin: Version | None, local_lm: LocalLMServer | None
) -> None:
    """Starts all pools and the local model at once, and tries the programs' modules meanwhile.

    The modules are tried as in the pool that must serve. Another pool is on trial: a fault there must not end the
    service.

    Raises:
        InvalidProgramModules: a module of `PROGRAM_MODULES` cannot be imported.
        SpawnFailed: the pool that must serve cannot have workers, and only the operator can repair that.
    """
    serving = pin or next(iter(pools.engines))
    checking = asyncio.create_task(factory.check_modules(pools.specs[serving]))
    try:
        starts = [pools.start(serving)]
        if local_lm is not None:
            starts.append(local_lm.start())
        await asyncio.gather(*starts)
        await checking
    finally:
        checking.cancel()
        await asyncio.wait([checking])


def open_reloader(
    opening: Opening, pools: PoolSet, flag: RolloutFlag, ramp: RampController, programs: Programs
) -> CodeReloader:
    """Makes what reloads the programs' code; it follows the disk by itself if the settings ask for that."""
    settings = opening.settings
    reloader = CodeReloader(
        pools,
        flag,
        ramp,
        programs.of_everyone,
        opening.tasks,
        is_automatic=settings.reload,
        try_s=settings.reload_check_timeout_s,
    )
    if settings.reload:
        for spawner in pools.spawners.values():
            spawner.watch_code(partial(reloader.reload_soon, OF_ITSELF))
    return reloader
