"""Waits for the outcome of a call of a pool."""

import asyncio

from pools.calls import Call, Result
from pools.protocol import Pool


async def executed(pool: Pool, call: Call) -> Result:
    """Runs a call on a pool; a cancelled one is abandoned. Raises what the pool tells."""
    outcome: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
    pool.begin(call, lambda one: None if outcome.done() else outcome.set_result(one))
    try:
        told = await outcome
    except asyncio.CancelledError:
        pool.abandon(call)
        raise
    if isinstance(told, Exception):
        raise told
    return told
