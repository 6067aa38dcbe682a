"""Opens the pools and the local model, which start at once."""

import asyncio
from collections.abc import Mapping

from app.local_lm import LocalLMServer
from app.opening.opening import Opening
from app.positions.factory import PoolFactory, PoolSet
from app.positions.reload import CodeReloader
from app.positions.starting import starting_specs
from poolshift.worker.lm import LOCAL
from routing.catalog.lms import LMs
from routing.rollout.controller import RampController
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


def open_reloader(opening: Opening, pools: PoolSet, ramp: RampController) -> CodeReloader:
    """Makes what reloads the programs' code; it follows the disk by itself if the settings ask for that."""
    reloader = CodeReloader(pools.engines, ramp, opening.tasks, is_automatic=opening.settings.reload)
    if opening.settings.reload:
        for spawner in pools.spawners.values():
            spawner.watch_code(reloader.reload_soon)
    return reloader
