"""The pools that run, if one is replaced while the service drains."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.positions.factory import PoolSet, RunningPool
from config.pools import PoolSpec
from pools.errors import PoolClosed
from pools.session_pool import SessionPool
from routing.versions import Version
from tests.support.fake_pools import result
from tests.unit.pool_on_fakes import Bench, bench, error_of, turns

pytestmark = pytest.mark.anyio
SPEC = PoolSpec(engine="session_pool", pool_size=1)


@asynccontextmanager
async def pool_set(before: Bench) -> AsyncIterator[PoolSet]:
    """A set with this pool alone."""
    pools = PoolSet(drain_timeout_s=60)
    pools.put(Version.V1, running(before))
    try:
        yield pools
    finally:
        await pools.aclose()


def running(made: Bench) -> RunningPool:
    """The pool as the factory hands it out."""
    return RunningPool(SPEC, "", made.spawner, made.engine)


async def test_a_pool_that_comes_amid_a_drain_takes_no_calls() -> None:
    async with bench(SessionPool) as before, bench(SessionPool) as after, pool_set(before) as pools:
        pools.refuse()
        pools.replace(Version.V1, running(after))
        assert pools.engines[Version.V1] is after.engine
        for made in (before, after):
            assert isinstance(await error_of(await made.begin(made.call())), PoolClosed)


async def test_a_drain_waits_for_a_pool_that_was_replaced() -> None:
    async with bench(SessionPool) as before, bench(SessionPool) as after, pool_set(before) as pools:
        call = before.call()
        task = await before.begin(call)
        pools.refuse()
        drain = asyncio.ensure_future(pools.drain())
        pools.replace(Version.V1, running(after))
        await turns()
        assert not drain.done()
        before.worker_of(call).answer(result("late"))
        assert (await task).outputs == result("late").outputs
        await asyncio.wait_for(drain, 10)
