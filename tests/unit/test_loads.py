"""Loads for calls, on fake workers: a quarter of the workers at once, and calls of other programs pass."""

import asyncio

import pytest

from pools.engine import Engine
from pools.errors import CheckoutTimeout, LoadFailed, LoadTimeout, PoolOverloaded, Withdrawn, WorkerCrashed
from pools.process.exits import ExitCause
from pools.session_pool import SessionPool
from pools.session_pool_v2 import SessionPoolV2
from poolshift.worker.definitions import Limits
from tests.support.fake_pools import echo_program, result
from tests.unit.pool_on_fakes import ECHO, ENGINES, Bench, bench, error_of, turns, until

pytestmark = pytest.mark.anyio

DEAR = echo_program("dear")
OTHER = echo_program("other")
COLD = (DEAR, OTHER)


async def ends(pool: Bench, *tasks: "asyncio.Task[object]") -> None:
    """Answers whatever runs until all tasks have ended."""
    while not all(task.done() for task in tasks):
        for process in pool.busy():
            process.answer(result())
        await turns()
    for task in tasks:
        await task


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_call_waits_for_a_load_while_others_pass(engine: type[Engine]) -> None:
    """One of four workers loads; V1's coordinator does not wait for it; the call runs once the program is loaded."""
    async with bench(engine, size=4, cold_for=COLD) as pool:
        dear = pool.call(DEAR)
        task = await pool.begin(dear)
        (loader,) = pool.loading()
        assert loader.loads[0][1].execution_id == dear.execution_id
        for _ in range(3):
            await ends(pool, await pool.begin(pool.call(ECHO)))
        assert not task.done()
        assert (await pool.engine.snapshot()).queue_depth == 0  # it has a worker, which loads for it
        deadline = dear.deadline
        loader.end_load()
        await turns()
        assert pool.worker_of(dear) is loader
        assert dear.is_cold
        assert dear.load_s > 0
        assert dear.deadline == pytest.approx(deadline + dear.load_s)
        await ends(pool, task)
        assert len(loader.loads) == 1
        await ends(pool, await pool.begin(pool.call(DEAR)))
        assert len(loader.loads) == 1


@pytest.mark.parametrize(("size", "most"), [(1, 1), (2, 1), (4, 1), (8, 2), (9, 2)])
async def test_at_most_one_worker_in_four_loads(size: int, most: int) -> None:
    """However many calls come, of however many programs; all of them are served in the end."""
    async with bench(SessionPoolV2, size=size, cold_for=COLD) as pool:
        tasks = [await pool.begin(pool.call(program)) for program in (DEAR, OTHER) for _ in range(size)]
        loads = 0
        while not all(task.done() for task in tasks):
            assert len(pool.loading()) <= most
            for process in pool.loading():
                process.end_load()
                loads += 1
            for process in pool.busy():
                process.answer(result())
            await turns()
        assert loads <= 2 * size


async def test_a_call_goes_to_the_first_worker_that_has_its_program() -> None:
    """One that waits for a load on one worker runs on another, which has loaded it before and comes free first."""
    async with bench(SessionPoolV2, size=4, cold_for=COLD) as pool:
        first = pool.call(DEAR)
        task = await pool.begin(first)
        pool.loading()[0].end_load()
        await turns()
        warm = pool.worker_of(first)
        second = pool.call(DEAR)
        waiting = await pool.begin(second)
        assert pool.loading()
        warm.answer(result())
        await turns()
        assert pool.worker_of(second) is warm
        pool.loading()[0].end_load()
        await ends(pool, task, waiting)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(LoadFailed("no weights"), LoadFailed), (LoadTimeout("it did not load"), LoadTimeout)],
)
async def test_a_failed_load_is_told_to_all_who_wait_for_it(failure: Exception, expected: type[Exception]) -> None:
    """Nobody waits for the next one; the worker lives on, and a later call tries again."""
    async with bench(SessionPoolV2, size=4, cold_for=COLD) as pool:
        tasks = [await pool.begin(pool.call(DEAR)) for _ in range(3)]
        assert isinstance(failure, (LoadFailed, LoadTimeout))
        pool.loading()[0].end_load(failure)
        for task in tasks:
            error = await error_of(task)
            assert isinstance(error, expected)
            assert not getattr(error, "started", True)
        task = await pool.begin(pool.call(DEAR))
        pool.loading()[0].end_load()
        await ends(pool, task)


async def test_a_death_under_a_load_counts_once() -> None:
    """Three calls wait for it, and fail; the program is not stopped until it has killed three workers."""
    async with bench(SessionPoolV2, size=4, cold_for=COLD) as pool:
        for _ in range(2):
            tasks = [await pool.begin(pool.call(DEAR)) for _ in range(3)]
            pool.loading()[0].die()
            for task in tasks:
                assert isinstance(await error_of(task), WorkerCrashed)
            await until(lambda: len(pool.engine._state.idle) == 4)
        assert not (await pool.engine.snapshot()).quarantined
        task = await pool.begin(pool.call(DEAR))
        pool.loading()[0].die()
        assert isinstance(await error_of(task), WorkerCrashed)
        assert (await pool.engine.snapshot()).quarantined


async def test_a_failed_load_costs_one_call_while_another_worker_has_the_program() -> None:
    """The others wait on."""
    async with bench(SessionPoolV2, size=4, cold_for=COLD) as pool:
        busy = await pool.begin(pool.call(DEAR))
        pool.loading()[0].end_load()
        await turns()
        tasks = [await pool.begin(pool.call(DEAR)) for _ in range(3)]
        pool.loading()[0].end_load(LoadFailed("no memory"))
        assert isinstance(await error_of(tasks[0]), LoadFailed)
        pool.loading()[0].end_load()
        await ends(pool, busy, *tasks[1:])


async def test_a_wait_for_a_load_is_no_wait_for_a_worker() -> None:
    """The call gives up when `LOAD_TIMEOUT_S` and `CHECKOUT_TIMEOUT_S` together have passed."""
    async with bench(SessionPoolV2, size=4, cold_for=COLD, checkout_timeout_s=0.1, load_timeout_s=0.3) as pool:
        loop = asyncio.get_running_loop()
        loaded = await pool.begin(pool.call(DEAR))
        began = loop.time()
        waiting = pool.call(OTHER)
        error = await error_of(await pool.begin(waiting))
        assert isinstance(error, CheckoutTimeout)
        assert "load" in str(error)
        assert loop.time() - began >= 0.39
        assert isinstance(await error_of(loaded), CheckoutTimeout)
        assert (await pool.engine.snapshot()).queue_depth == 0


async def test_a_program_that_waits_for_its_load_does_not_fill_the_queue() -> None:
    """All but the one with the worker count towards the limit, and the last one makes room for another session's."""
    async with bench(SessionPoolV2, size=4, cold_for=COLD, queue_limit=2) as pool:
        tasks = [await pool.begin(pool.call(DEAR, session_id="flood")) for _ in range(3)]
        refused = await pool.begin(pool.call(DEAR, session_id="flood"))
        assert isinstance(await error_of(refused), PoolOverloaded)
        other = await pool.begin(pool.call(OTHER, session_id="modest"))
        assert isinstance(await error_of(tasks.pop()), PoolOverloaded)
        await ends(pool, await pool.begin(pool.call(ECHO)))
        pool.loading()[0].end_load()
        await turns()
        for process in pool.busy():
            process.answer(result())
        await until(lambda: bool(pool.loading()))
        pool.loading()[0].end_load()
        await ends(pool, other, *tasks)


@pytest.mark.parametrize("engine", ENGINES)
async def test_waiting_calls_can_leave(engine: type[Engine]) -> None:
    """Taken back by the router, or cancelled; the load goes on and harms nobody."""
    async with bench(engine, size=2, cold_for=COLD) as pool:
        withdrawn, cancelled = await pool.begin(pool.call(DEAR)), await pool.begin(pool.call(DEAR))
        cancelled.cancel()
        await turns()
        assert pool.engine.withdraw(lambda call: call.program is DEAR) == 1
        assert isinstance(await error_of(withdrawn), Withdrawn)
        loader = pool.loading()[0]
        loader.end_load()
        assert loader.exited.done() is False
        await ends(pool, await pool.begin(pool.call(DEAR)))


async def test_a_limited_program_keeps_its_limit_over_a_load() -> None:
    """Calls that wait for the load have their places; the limit holds afterwards, and nothing is left."""
    limited = echo_program("limited", limits=Limits(max_concurrency=1))
    async with bench(SessionPoolV2, size=4, cold_for=[limited]) as pool:
        tasks = [await pool.begin(pool.call(limited)) for _ in range(3)]
        assert len(pool.loading()) == 1
        pool.loading()[0].end_load()
        await turns()
        assert len(pool.busy()) == 1
        tasks[1].cancel()
        await turns()
        await ends(pool, tasks[0], tasks[2])
        assert "limited=0" in repr(pool.engine._queue)


async def test_a_worker_that_hangs_in_a_load_is_killed() -> None:
    """At the time that a load may take, as the worker says it."""
    async with bench(SessionPoolV2, size=2, cold_for=COLD) as pool:
        task = await pool.begin(pool.call(DEAR))
        process = pool.loading()[0]
        process.begin_load(asyncio.get_running_loop().time() + 0.05)
        assert isinstance(await error_of(task), LoadTimeout)
        assert process.ended_for is ExitCause.TIMEOUT


async def test_v1_serves_one_at_a_time_beside_a_load() -> None:
    """The coordinator is free for others, and for one of them."""
    async with bench(SessionPool, size=4, cold_for=COLD) as pool:
        loads = await pool.begin(pool.call(DEAR))
        first, second = await pool.begin(pool.call(ECHO)), await pool.begin(pool.call(ECHO))
        assert len(pool.busy()) == 1
        pool.loading()[0].end_load()
        await turns()
        assert len(pool.busy()) == 1
        await ends(pool, loads, first, second)
