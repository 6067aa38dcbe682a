"""Programs with a limit of calls that run at once, in both engines, on fake workers."""

import pytest

from pools.engine import Engine
from pools.errors import CheckoutTimeout, PoolClosed, PoolOverloaded, Withdrawn, WorkerCrashed
from pools.session_pool_v2 import SessionPoolV2
from poolshift.worker.definitions import Limits
from tests.support.fake_pools import echo_program, result
from tests.unit.pool_on_fakes import ECHO, ENGINES, Bench, bench, error_of, until

pytestmark = pytest.mark.anyio

ONE = echo_program("one", limits=Limits(max_concurrency=1))


async def ends_well(pool: Bench) -> None:
    """A call of the program runs at once, and nothing is left of it: its count is right."""
    call = pool.call(ONE)
    task = await pool.begin(call)
    pool.worker_of(call).answer(result())
    await task
    assert "limited=0" in repr(pool.engine._queue)


async def test_others_run_beside_a_program_at_its_limit() -> None:
    """One call of it runs, the next ones wait, and calls of others find the idle workers at once."""
    async with bench(SessionPoolV2, size=3) as pool:
        calls = [pool.call(ONE) for _ in range(3)]
        tasks = [await pool.begin(call) for call in calls]
        others = [pool.call(ECHO) for _ in range(2)]
        other_tasks = [await pool.begin(call) for call in others]
        assert {process.call for process in pool.busy()} == {calls[0], *others}
        assert (await pool.engine.snapshot()).queue_depth == 2
        for call in others:
            pool.worker_of(call).answer(result())
        for call, task in zip(calls, tasks, strict=True):
            assert [process.call for process in pool.busy()] == [call]
            pool.worker_of(call).answer(result())
            await task
        for task in other_tasks:
            await task
        await ends_well(pool)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_call_that_dies_hands_its_place_on(engine: type[Engine]) -> None:
    """The next begins when the worker is dead, whatever it has died of."""
    async with bench(engine, size=2) as pool:
        first, second = pool.call(ONE), pool.call(ONE)
        dying, task = await pool.begin(first), await pool.begin(second)
        pool.worker_of(first).die()
        assert isinstance(await error_of(dying), WorkerCrashed)
        await until(lambda: second.dispatched_at > 0)
        pool.worker_of(second).answer(result())
        await task
        await ends_well(pool)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_cancelled_call_has_its_place_until_its_worker_is_dead(engine: type[Engine]) -> None:
    """A program that ignores its end is still running, so the next one waits."""
    async with bench(engine, size=2) as pool:
        first, second = pool.call(ONE), pool.call(ONE)
        leaving, task = await pool.begin(first), await pool.begin(second)
        worker = pool.worker_of(first)
        worker.hangs = True
        leaving.cancel()
        await until(leaving.done)
        assert second.dispatched_at == 0
        worker.die()
        await until(lambda: second.dispatched_at > 0)
        pool.worker_of(second).answer(result())
        await task
        await ends_well(pool)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_lost_worker_costs_no_place(engine: type[Engine]) -> None:
    """A call whose worker was dead before it began runs on another, once."""
    async with bench(engine, size=2) as pool:
        for process in pool.spawner.living:
            process.is_lost = True
        call, waiting = pool.call(ONE), pool.call(ONE)
        task, other = await pool.begin(call), await pool.begin(waiting)
        for process in list(pool.spawner.living):
            if process.is_lost:
                process.die()
        for one, its_task in ((call, task), (waiting, other)):
            await until(lambda one=one: one.dispatched_at > 0)  # type: ignore[misc]
            assert [process.call for process in pool.busy()] == [one]
            pool.worker_of(one).answer(result())
            await its_task
        await ends_well(pool)


async def test_who_waits_for_its_program_gives_up_in_time() -> None:
    """The error names the limit, not the workers, which are idle."""
    async with bench(SessionPoolV2, size=2, checkout_timeout_s=0.02) as pool:
        call = pool.call(ONE)
        task = await pool.begin(call)
        error = await error_of(await pool.begin(pool.call(ONE)))
        assert isinstance(error, CheckoutTimeout)
        assert "max_concurrency" in error.detail
        pool.worker_of(call).answer(result())
        await task
        await ends_well(pool)


async def test_the_queue_is_bounded_all_the_same() -> None:
    """Calls beyond the queue's limit are shed; a newcomer of another program is not, while one of them can be."""
    async with bench(SessionPoolV2, size=1, queue_limit=2) as pool:
        call = pool.call(ONE)
        task = await pool.begin(call)
        held = [await pool.begin(pool.call(ONE)) for _ in range(2)]
        assert isinstance(await error_of(await pool.begin(pool.call(ONE))), PoolOverloaded)
        other = pool.call(ECHO)
        other_task = await pool.begin(other)
        assert isinstance(await error_of(held[1]), PoolOverloaded)
        pool.worker_of(call).answer(result())
        await task
        pool.worker_of(other).answer(result())
        await other_task
        pool.busy()[0].answer(result())
        await held[0]


@pytest.mark.parametrize("engine", ENGINES)
async def test_waiting_calls_can_be_withdrawn(engine: type[Engine]) -> None:
    """A rollback takes the calls in a room as it takes those in the queue, and a running one's place is free."""
    async with bench(engine, size=2) as pool:
        running = await pool.begin(pool.call(ONE))
        tasks = [await pool.begin(pool.call(ONE)) for _ in range(2)]
        assert pool.engine.withdraw(lambda _: True) == 2
        assert pool.engine.withdraw_running(lambda _: True) == 1
        for task in (*tasks, running):
            assert isinstance(await error_of(task), Withdrawn)
        await until(lambda: len(pool.spawner.living) == 2)
        await ends_well(pool)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_closed_pool_answers_who_waits_for_a_program(engine: type[Engine]) -> None:
    """Each call gets its one answer."""
    async with bench(engine, size=2) as pool:
        tasks = [await pool.begin(pool.call(ONE)) for _ in range(3)]
        await pool.engine.aclose()
        assert [type(await error_of(task)) for task in tasks] == [PoolClosed] * 3
