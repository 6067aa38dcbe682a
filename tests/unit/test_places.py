"""A pool whose spawner has room for fewer workers than the pool is to have, as on a cluster that loses nodes."""

import pytest

from pools.errors import CheckoutTimeout, SpawnFailed
from pools.session_pool_v2 import SessionPoolV2
from tests.unit.pool_on_fakes import bench, error_of, turns

pytestmark = pytest.mark.anyio


async def test_a_pool_is_as_large_as_there_is_room_for() -> None:
    """The view tells both sizes; workers beyond the room are not started."""
    async with bench(SessionPoolV2, size=4) as pool:
        pool.spawner.give_places(2)
        for process in pool.spawner.living[:2]:
            process.die()
        await turns()
        snapshot = await pool.engine.snapshot()
        assert (snapshot.size, snapshot.wished_size, len(pool.spawner.living)) == (2, 4, 2)
        pool.spawner.give_places(8)
        await turns()
        assert ((await pool.engine.snapshot()).size, len(pool.spawner.living)) == (4, 4)


async def test_a_pool_without_room_is_down() -> None:
    """The pool says why, so does a call that waits for it, and it is well again with the first place."""
    async with bench(SessionPoolV2, size=2, checkout_timeout_s=0.02) as pool:
        pool.spawner.give_places(0, "the cluster is gone")
        assert not pool.engine.is_down
        for process in pool.spawner.living:
            process.die()
        await turns()
        pool.spawner.give_places(0, "the cluster is gone")
        assert pool.engine.is_down
        assert (await pool.engine.snapshot()).fault == "the cluster is gone"
        error = await error_of(await pool.begin(pool.call()))
        assert isinstance(error, CheckoutTimeout)
        assert "could not start one" in str(error)
        pool.spawner.give_places(1)
        await turns()
        assert pool.engine.is_ready
        assert (await pool.engine.snapshot()).fault is None


async def test_a_reload_that_fails_leaves_the_workers() -> None:
    """As everywhere."""
    async with bench(SessionPoolV2, size=2) as pool:
        pool.spawner.renewal_failure = SpawnFailed("as the test has it")
        before = pool.spawner.living
        with pytest.raises(SpawnFailed):
            await pool.engine.reload()
        assert pool.spawner.living == before
