"""Warm workers, on fake ones: what is loaded before a worker is idle, what is left out, and how warm a pool is."""

import asyncio

import pytest
import structlog

from pools import warming
from pools.calls import Program
from pools.errors import LoadFailed, WorkerCrashed
from pools.process.exits import ExitCause
from pools.process.stats import ProcessStats
from pools.session_pool_v2 import SessionPoolV2
from pools.warming import WarmOptions
from tests.support.fake_pools import FakeProcess, echo_program, result
from tests.unit.pool_on_fakes import ECHO, Bench, bench, error_of, turns, until

pytestmark = pytest.mark.anyio

DEAR = echo_program("dear")
OTHER = echo_program("other")
COLD = (DEAR, OTHER)


@pytest.fixture(autouse=True)
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks in the background follow each other at once."""
    monkeypatch.setattr(warming, "INTERVAL_S", 0.0)


def options(*programs: Program, timeout_s: float = 60.0) -> WarmOptions:
    """Warms workers for these programs."""
    return WarmOptions(lambda: programs, timeout_s)


async def warm_all(pool: Bench) -> None:
    """Ends loads until no worker loads, and all are idle."""
    while pool.loading() or not pool.engine._state.idle:
        for process in pool.loading():
            process.end_load()
        await turns()


async def test_a_worker_is_warm_before_it_is_idle() -> None:
    """The most used program comes first; until then no call can have the worker, and the pool is not ready."""
    async with bench(SessionPoolV2, size=2, cold_for=COLD, warm=options(DEAR, OTHER)) as pool:
        assert [process.loading for process in pool.spawner.living] == [DEAR, DEAR]
        assert not pool.engine.is_ready
        assert not pool.engine.is_warm_for(0.01)
        first, second = pool.spawner.living
        first.end_load()
        await turns()
        assert first.loading is OTHER
        first.end_load()
        await turns()
        assert pool.engine.is_ready
        assert (pool.engine.is_warm_for(0.5), pool.engine.is_warm_for(0.51)) == (True, False)
        assert (await pool.engine.snapshot()).warm == 1
        call = pool.call(DEAR)
        task = await pool.begin(call)
        assert pool.worker_of(call) is first
        assert call.load_s == 0
        first.answer(result())
        await task
        second.end_load()
        await turns()
        second.end_load()
        assert await pool.engine.warmed(1.0)


async def test_memory_ends_the_warming() -> None:
    """A worker that has grown past the bound loads no more, and counts as warm."""
    warm = WarmOptions(lambda: (DEAR, OTHER), 60.0, max_rss_bytes=100)
    async with bench(SessionPoolV2, size=1, cold_for=COLD, warm=warm) as pool:
        (process,) = pool.spawner.living
        process.figures = ProcessStats(101, 0.0, 1)
        process.end_load()
        await until(lambda: pool.engine.is_ready)
        assert process.loading is None
        assert pool.engine.is_warm_for(1.0)
        await turns(100)
        assert len(process.loads) == 1


async def test_a_program_that_cannot_be_loaded_is_told_once_and_left_out() -> None:
    """The worker starts with the others; workers that start later, and the background, do not try it again."""
    with structlog.testing.capture_logs() as logs:
        async with bench(SessionPoolV2, size=2, cold_for=COLD, warm=options(DEAR, OTHER)) as pool:
            for process in pool.loading():
                process.end_load(LoadFailed("no weights"))
            await turns()
            await warm_all(pool)
            pool.spawner.living[0].die()
            await until(lambda: bool(pool.loading()))
            assert pool.loading()[0].loading is OTHER
            await warm_all(pool)
            await turns(100)
            assert not pool.loading()
            assert pool.engine.is_warm_for(1.0)
            assert not (await pool.engine.snapshot()).quarantined
            task = await pool.begin(pool.call(DEAR))  # its calls decide for themselves
            assert pool.loading()[0].loading is DEAR
            pool.loading()[0].end_load()
            await turns()
            pool.busy()[0].answer(result())
            await task
    told = [line for line in logs if "ahead" in line["event"]]
    assert [(line["program_id"], line["reason"]) for line in told] == [("dear", "no weights")]


async def test_a_program_that_kills_the_worker_keeps_none_from_starting() -> None:
    """The next worker is warmed without it; that is no evidence, and no failed start."""
    with structlog.testing.capture_logs() as logs:
        async with bench(SessionPoolV2, size=1, cold_for=COLD, warm=options(DEAR, OTHER)) as pool:
            pool.spawner.living[0].die()
            await until(lambda: bool(pool.loading()))
            assert pool.loading()[0].loading is OTHER
            await warm_all(pool)
            assert pool.engine.fault is None
            assert pool.spawner.attempts == 2
            for _ in range(3):
                task = await pool.begin(pool.call(DEAR))
                pool.loading()[0].die()
                assert isinstance(await error_of(task), WorkerCrashed)
                await until(lambda: bool(pool.loading()) or bool(pool.engine._state.idle))
                await warm_all(pool)
            assert len((await pool.engine.snapshot()).quarantined) == 1
    assert len([line for line in logs if "ahead" in line["event"]]) == 1


async def test_a_program_that_hangs_holds_a_start_no_longer_than_the_time_for_it() -> None:
    """The worker is killed then, and the one that follows is not warmed at its start, but in the background."""
    async with bench(SessionPoolV2, size=1, cold_for=COLD, warm=options(DEAR, OTHER, timeout_s=0.1)) as pool:
        (hanging,) = pool.spawner.living
        await until(lambda: pool.engine.is_ready)
        assert hanging.ended_for is ExitCause.TIMEOUT
        assert pool.engine.fault is None
        await until(lambda: bool(pool.loading()))
        assert pool.loading()[0].loads[0][1].limit_s is None
        await warm_all(pool)


async def test_new_code_gives_a_program_another_try() -> None:
    """A reload forgets what could not be loaded."""
    async with bench(SessionPoolV2, size=1, cold_for=COLD, warm=options(DEAR)) as pool:
        pool.loading()[0].end_load(LoadFailed("no weights"))
        await until(lambda: pool.engine.is_ready)
        reloading = asyncio.ensure_future(pool.engine.reload())
        await until(lambda: bool(pool.loading()))
        await warm_all(pool)
        await reloading
        assert pool.spawner.living[0].has_loaded(DEAR.definition)


async def test_idle_workers_are_warmed_for_what_becomes_used() -> None:
    """A quarter of them at once, the coldest first, and a real call does not wait; all are warm in the end."""
    programs = [ECHO]
    async with bench(SessionPoolV2, size=8, cold_for=COLD, warm=WarmOptions(lambda: programs, 60.0)) as pool:
        await until(lambda: len(pool.engine._state.idle) == 8)
        coldest = pool.spawner.living[5]
        for process in pool.spawner.living:
            if process is not coldest:
                process.lacks.discard(OTHER.definition)
        programs += [DEAR, OTHER]
        assert not pool.engine.is_warm_for(0.1)
        await until(lambda: len(pool.loading()) == 2)
        assert coldest in pool.loading()
        task = await pool.begin(pool.call(ECHO))
        (busy,) = pool.busy()
        while not pool.engine.is_warm_for(0.8):
            assert len(pool.loading()) <= 2
            for process in pool.loading():
                process.end_load()
            await turns(30)
        busy.answer(result())
        await task
        await until(lambda: _end_one(pool.loading()) and pool.engine.is_warm_for(1.0))


def _end_one(loading: list[FakeProcess]) -> bool:
    for process in loading:
        process.end_load()
    return True


async def test_calls_go_before_the_background() -> None:
    """While only one worker is idle, or calls wait, nothing is loaded ahead."""
    async with bench(SessionPoolV2, size=2, cold_for=COLD, warm=options()) as pool:
        await until(lambda: len(pool.engine._state.idle) == 2)
        task = await pool.begin(pool.call(ECHO))
        pool.engine._warming._options = options(DEAR)
        await turns(200)
        assert not pool.loading()
        pool.busy()[0].answer(result())
        await task
        await until(lambda: bool(pool.loading()))
        pool.loading()[0].end_load()


async def test_a_pool_without_a_list_counts_its_live_workers() -> None:
    """And one whose workers have had their time counts them, whatever they lack."""
    async with bench(SessionPoolV2, size=4) as pool:
        assert pool.engine.warm_workers == 4
        assert pool.engine.is_warm_for(0.0)
        pool.spawner.is_failing = True
        pool.spawner.living[0].die()
        await turns()
        assert (pool.engine.is_warm_for(0.75), pool.engine.is_warm_for(0.76)) == (True, False)
        assert not await pool.engine.warmed(1.0)
    async with bench(SessionPoolV2, size=1, cold_for=COLD, warm=options(timeout_s=0.05)) as pool:
        await until(lambda: pool.engine.is_ready)
        pool.engine._warming._options = options(DEAR, timeout_s=0.2)
        assert not pool.engine.is_warm_for(1.0)
        await until(lambda: pool.engine.is_warm_for(1.0))
        assert not pool.spawner.living[0].has_loaded(DEAR.definition)
