"""Calls on idle workers: they take what nobody needs, and give it back at once."""

import asyncio

import pytest

from pools.calls import Call, Result
from pools.engine import Engine
from pools.errors import Preempted, ProgramError, WorkerCrashed
from pools.process.exits import ExitCause
from pools.session_pool import SessionPool
from pools.session_pool_v2 import SessionPoolV2
from poolshift.worker.definitions import Limits
from tests.support.fake_pools import echo_program, result
from tests.unit.pool_on_fakes import ENGINES, Bench, bench, turns, until

pytestmark = pytest.mark.anyio

on_both_engines = pytest.mark.parametrize("engine", ENGINES)


async def begin(pool: Bench, call: Call) -> "asyncio.Task[Result]":
    """Starts a real call, which the pool's end may end."""
    task = await pool.begin(call)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return task


def idle(pool: Bench, avoid_pid: int | None = None, **options: object) -> "asyncio.Future[Result] | None":
    return pool.engine.begin_idle(pool.call(**options), avoid_pid)  # type: ignore[arg-type]


@on_both_engines
async def test_it_counts_in_no_total_and_leaves_the_worker_as_it_was(engine: type[Engine]) -> None:
    async with bench(engine) as pool:
        answer = idle(pool)
        assert answer is not None
        (worker,) = pool.busy()
        worker.answer(result("copied"))
        assert (await answer).outputs == result("copied").outputs
        snapshot = await pool.engine.snapshot()
        assert (snapshot.dispatched_total, snapshot.idle, snapshot.busy) == (0, 2, 0)


@on_both_engines
async def test_at_most_half_of_the_workers_run_them(engine: type[Engine]) -> None:
    async with bench(engine, 4) as pool:
        answers = [idle(pool) for _ in range(4)]
        assert [answer is not None for answer in answers] == [True, True, False, False]


async def test_one_worker_stays_idle_for_real_calls() -> None:
    async with bench(SessionPoolV2) as pool:
        await begin(pool, pool.call())
        assert idle(pool) is None


async def test_a_coordinators_idle_workers_are_to_spare_and_it_serves_on() -> None:
    """V1's coordinator runs one call at a time, so the other worker is nobody's; and it waits for no idle run."""
    async with bench(SessionPool) as pool:
        first = pool.call()
        task = await begin(pool, first)
        assert idle(pool) is not None
        waiting = await begin(pool, pool.call())
        assert len(pool.busy()) == 2
        pool.worker_of(first).answer(result())
        await task
        await until(lambda: len(pool.busy()) == 2)
        assert not waiting.done()


async def test_a_real_call_ends_it_and_gets_a_worker() -> None:
    async with bench(SessionPoolV2) as pool:
        answer = idle(pool)
        assert answer is not None
        for _ in range(2):
            await begin(pool, pool.call())
        with pytest.raises(Preempted):
            await answer
        await until(lambda: len(pool.busy()) == 2)
        assert pool.engine._supervisor.exits[ExitCause.CANCELLED] == 1


async def test_a_program_at_its_limit_ends_its_own() -> None:
    program = echo_program("limited", limits=Limits(max_concurrency=1))
    async with bench(SessionPoolV2, 4) as pool:
        answer = idle(pool, program=program)
        other = idle(pool)
        assert answer is not None
        assert other is not None
        call = pool.call(program)
        await begin(pool, call)
        with pytest.raises(Preempted):
            await answer
        await until(lambda: any(worker.call is call for worker in pool.busy()))
        assert not other.done()
        assert idle(pool, program=program) is None


@on_both_engines
async def test_it_avoids_a_worker_if_there_is_another(engine: type[Engine]) -> None:
    async with bench(engine, 4) as pool:
        avoided = pool.spawner.living[0].pid
        assert idle(pool, avoided) is not None
        assert [worker.pid for worker in pool.busy()] != [avoided]


@on_both_engines
async def test_a_death_is_its_answer_and_quarantines_nothing(engine: type[Engine]) -> None:
    async with bench(engine) as pool:
        for _ in range(5):
            await until(lambda: len(pool.engine._state.idle) == 2)
            answer = idle(pool)
            assert answer is not None
            pool.busy()[0].die(ExitCause.CRASH)
            with pytest.raises(WorkerCrashed):
                await answer
        await until(lambda: len(pool.engine._state.idle) == 2)
        task = await begin(pool, pool.call())
        assert not task.done()


@on_both_engines
async def test_an_error_is_its_answer(engine: type[Engine]) -> None:
    async with bench(engine) as pool:
        answer = idle(pool)
        assert answer is not None
        pool.busy()[0].answer(ProgramError("no"))
        with pytest.raises(ProgramError):
            await answer


@on_both_engines
async def test_it_ends_with_whoever_wanted_it_and_with_the_pool(engine: type[Engine]) -> None:
    async with bench(engine) as pool:
        answer = idle(pool)
        assert answer is not None
        pool.engine.end_idle(answer)
        with pytest.raises(Preempted):
            await answer
        await until(lambda: len(pool.engine._state.idle) == 2)
        left = idle(pool)
        pool.engine.refuse()
        await turns()
        assert idle(pool) is None
    assert left is not None
    assert left.done()
    assert left.exception() is not None
