"""`ROLLOUT_MAX_STALENESS_S`: a replica that may have missed a rollback sends nothing to V2."""

import asyncio
from collections.abc import Callable

from routing.rollout.flag import RolloutFlag

CHECK_INTERVAL_S = 0.25


async def limit_staleness(flag: RolloutFlag, staleness_s: Callable[[], float], max_s: float) -> None:
    """Cuts the flag off once it is staler than `max_s`, and reconnects it once this replica has caught up."""
    while True:
        stale_s = staleness_s()
        if not flag.is_cut_off and stale_s > max_s:
            flag.cut_off(stale_s)
        elif flag.is_cut_off and stale_s <= max_s:
            flag.reconnect()
        await asyncio.sleep(CHECK_INTERVAL_S)
