"""The end of V1: `POOLS=v2` moves whatever V1 still gets, so the start asks for a proven V2 or for a word."""

import structlog

from config.settings import InvalidSettings, Settings
from routing.split import BASIS_POINTS
from routing.versions import Version
from store.database import Database
from store.migration_store import SqlUsageStore
from store.rollout_log import SqlRolloutLog

SEEN = "pools"
"""The source by which the log remembers the pools of the last start."""
_log = structlog.stdlib.get_logger("poolshift")


async def check_retirement(settings: Settings, database: Database, log: SqlRolloutLog) -> None:
    """Lets a service start without V1 if V2 had everything, if V1 never answered a call, or if the operator insists.

    Raises:
        InvalidSettings: V1 still has a share of the traffic.
        StoreUnavailable: the database does not answer.
    """
    before = await log.last_seen(SEEN)
    if not settings.has_v1 and before != settings.pools:
        await _check_share(settings, database, log)
    if before != settings.pools:
        await log.saw(SEEN, settings.pools)


async def _check_share(settings: Settings, database: Database, log: SqlRolloutLog) -> None:
    latest = await log.latest()
    if latest is None or latest.canary_basis_points == BASIS_POINTS or not await _has_v1_served(database):
        return
    percent = latest.canary_percent
    if settings.retire_v1 is None:
        raise InvalidSettings(
            f"POOLS: v2 alone would move {100 - percent:g} % of the traffic from V1 at once, as V2 has {percent:g} %: "
            "promote V2 with POOLS=v1,v2 first (`poolshift rollout status`), or set RETIRE_V1=anyway"
        )
    _log.warning("V1 is retired before V2 had all of the traffic", canary_percent=percent, RETIRE_V1=settings.retire_v1)


async def _has_v1_served(database: Database) -> bool:
    """Tells if V1 has answered calls: without any, nothing moves."""
    return any(day.version is Version.V1 and day.calls for day in await SqlUsageStore(database).since(""))
