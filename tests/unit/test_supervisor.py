"""The supervisor on fake workers: starts, restarts, recycling, kills, inspection, whatever the spawner raises."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from pools import supervisor
from pools.calls import Result
from pools.errors import ExecutionTimeout, PoolClosed, SpawnFailed, WorkerCrashed
from pools.process.exits import ExitCause
from pools.process.stats import ProcessStats, process_stats
from pools.session_pool_v2 import SessionPoolV2
from pools.supervisor import RecycleLimits
from poolshift.worker.definitions import Limits
from tests.support.fake_pools import FakeProcess, echo_program, result
from tests.unit.pool_on_fakes import ECHO, Bench, bench, error_of, turns, until

pytestmark = pytest.mark.anyio

FAILURES = (
    SpawnFailed("no"),
    OSError(24, "Too many open files"),
    RuntimeError("can't start new thread"),
    MemoryError(),
    IndexError(),
    ValueError(),
)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Starts are tried again at once; the failures in a row before each."""
    failures: list[int] = []

    def backoff_s(failures_in_a_row: int) -> float:
        failures.append(failures_in_a_row)
        return 0.0

    monkeypatch.setattr(supervisor, "backoff_s", backoff_s)
    return failures


async def whole(pool: Bench, size: int) -> None:
    """Waits until `size` workers are idle, and nothing else is left of the pool's troubles."""
    state = pool.engine._state
    await until(lambda: len(state.idle) == len(state.slots) == len(pool.spawner.living) == size)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_whatever_a_start_raises_is_one_failed_start(failure: Exception) -> None:
    """The worker's place is free again, and filled by the next start."""
    async with bench(SessionPoolV2, size=3) as pool:
        pool.spawner.failures = [failure] * 5
        for process in list(pool.spawner.living):
            process.die()
        await whole(pool, 3)
        assert pool.spawner.attempts == 3 + 5 + 3


@pytest.mark.usefixtures("no_pause")
async def test_a_cancelled_start_frees_its_place() -> None:
    """A pool that is closed while its workers start leaves none."""
    async with bench(SessionPoolV2, size=2) as pool:
        pool.spawner.hold()
        for process in list(pool.spawner.living):
            process.die()
        await until(lambda: pool.spawner.attempts == 4)
        assert (await pool.engine.snapshot()).starting == 2
        await pool.engine.aclose()
        assert not pool.engine._state.slots


@pytest.mark.usefixtures("no_pause")
async def test_a_line_tells_of_all_workers_that_cannot_start() -> None:
    """The first line comes at once with the number of workers, the next after a second at the earliest, or the end."""
    with structlog.testing.capture_logs() as logged:
        async with bench(SessionPoolV2, size=5) as pool:
            pool.spawner.failures = [SpawnFailed("no"), *[SpawnFailed("other")] * 2, *[SpawnFailed("no")] * 5]
            for process in list(pool.spawner.living):
                process.die()
            await whole(pool, 5)
            await until(lambda: bool(told(logged)))
            assert told(logged) == [{"count": 8, "reason": "no", "other_reasons": 1}]
            pool.spawner.failures = [SpawnFailed("again")] * 3
            for process in list(pool.spawner.living):
                process.die()
            await whole(pool, 5)
            assert len(told(logged)) == 1
    assert told(logged)[1:] == [{"count": 3, "reason": "again"}]


def told(logged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    lines = [line for line in logged if line["event"] == "worker could not be started"]
    return [{name: line[name] for name in ("count", "reason", "other_reasons") if name in line} for line in lines]


async def test_starts_that_fail_are_tried_less_and_less_often(no_pause: list[int]) -> None:
    """One pause for all that fail together; a worker that lives ends the series."""
    async with bench(SessionPoolV2, size=1) as pool:
        pool.spawner.is_failing = True
        pool.spawner.processes[0].die()
        await until(lambda: len(no_pause) >= 4)
        pool.spawner.is_failing = False
        await whole(pool, 1)
        assert no_pause == list(range(1, len(no_pause) + 1))
        seen = len(no_pause)
        call = pool.call()
        task = await pool.begin(call)
        pool.worker_of(call).answer(result())
        await task
        pool.spawner.living[0].die()
        pool.spawner.failures = [SpawnFailed("no")]
        await whole(pool, 1)
        assert no_pause[seen:] == [1]


async def test_a_short_life_without_a_call_is_a_failed_start(no_pause: list[int]) -> None:
    """Workers that die as soon as they are ready do not make the pool spin."""
    async with bench(SessionPoolV2, size=1) as pool:
        pool.spawner.processes[0].die()
        await until(lambda: no_pause == [1])
        await whole(pool, 1)


async def test_a_killed_worker_is_replaced_at_once_if_there_is_room() -> None:
    """Within size + spare; otherwise as soon as one is dead."""
    async with bench(SessionPoolV2, size=2) as pool:
        calls = [pool.call(), pool.call()]
        tasks = [await pool.begin(call) for call in calls]
        hanging = [pool.worker_of(call) for call in calls]
        for process, task in zip(hanging, tasks, strict=True):
            process.hangs = True
            task.cancel()
        await turns()
        assert len(pool.spawner.living) == 3
        hanging[0].die()
        await turns()
        assert len(pool.spawner.living) == 3
        hanging[1].die()
        await whole(pool, 2)
        assert pool.observer.exits == [ExitCause.CANCELLED] * 2


async def test_figures_add_up() -> None:
    """Starts, exits by cause, and the processor time of the dead."""
    async with bench(SessionPoolV2, size=2) as pool:
        pool.spawner.processes[0].die(ExitCause.SIGNAL)
        await until(lambda: pool.observer.started == 3)
        snapshot = await pool.engine.snapshot()
        assert snapshot.worker_starts_total == 3
        assert snapshot.worker_exits_total == {ExitCause.SIGNAL: 1}
        assert snapshot.cpu_seconds_total >= 1.0
        assert len(snapshot.workers) == 2


# --- reloading


async def test_a_reload_that_cannot_be_changes_nothing() -> None:
    """No worker is replaced by one that could not be started."""
    async with bench(SessionPoolV2, size=2) as pool:
        before = list(pool.spawner.living)
        pool.spawner.renewal_failure = SpawnFailed("the new code cannot be loaded")
        with pytest.raises(SpawnFailed):
            await pool.engine.reload()
        await turns()
        assert pool.spawner.living == before


@pytest.mark.usefixtures("no_pause")
async def test_a_reload_replaces_workers_that_are_being_started() -> None:
    """They may have read the old code."""
    async with bench(SessionPoolV2, size=2) as pool:
        pool.spawner.hold()
        for process in list(pool.spawner.living):
            process.die()
        await until(lambda: pool.spawner.attempts == 4)
        reload = asyncio.ensure_future(pool.engine.reload())
        await turns()
        pool.spawner.let_go()
        await asyncio.wait_for(reload, 10)
        await whole(pool, 2)
        assert Counter(pool.observer.exits) == {ExitCause.CRASH: 2, ExitCause.RECYCLED: 2}


async def test_a_reload_ends_with_the_pool() -> None:
    """Whoever waits for it does not wait for ever."""
    async with bench(SessionPoolV2, size=1) as pool:
        task = await pool.begin(pool.call())
        reload = asyncio.ensure_future(pool.engine.reload())
        await turns()
        await pool.engine.aclose()
        await asyncio.wait_for(reload, 10)
        assert isinstance(await error_of(task), PoolClosed)


# --- inspection


@pytest.fixture
def usage(monkeypatch: pytest.MonkeyPatch) -> dict[int, ProcessStats | Exception]:
    """The figures of each worker, by its pid; they are looked at all the time."""
    figures: dict[int, ProcessStats | Exception] = {}

    def stats(process: FakeProcess) -> ProcessStats | None:
        figure = figures.get(process.pid)
        if isinstance(figure, Exception):
            raise figure
        return figure

    monkeypatch.setattr(supervisor, "INSPECTION_INTERVAL_S", 0.001)
    monkeypatch.setattr(FakeProcess, "stats", stats)
    return figures


MB = 1024 * 1024


async def test_limits_are_enforced(usage: dict[int, ProcessStats | Exception]) -> None:
    """A worker over its memory is recycled, one over twice as much is killed amid its call."""
    async with bench(SessionPoolV2, size=2, recycle=RecycleLimits(rss_bytes=100 * MB)) as pool:
        big, huge = pool.spawner.processes
        usage[big.pid] = ProcessStats(101 * MB, 0.0, 4)
        usage[huge.pid] = ProcessStats(201 * MB, 0.0, 4)
        await until(lambda: big.exited.done() and huge.exited.done())
        assert (big.ended_for, huge.ended_for) == (ExitCause.RECYCLED, ExitCause.OOM)
        await whole(pool, 2)


async def test_a_programs_limit_of_memory(
    usage: dict[int, ProcessStats | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that its program makes too large is killed; one that another program has made large is not."""
    before = 900 * MB
    monkeypatch.setattr(FakeProcess, "ask_memory", lambda _, listener: listener(before))
    limited = echo_program("limited", limits=Limits(memory_mb=100))
    async with bench(SessionPoolV2, size=4) as pool:
        calls = [pool.call(limited), pool.call(ECHO), pool.call(limited), pool.call(limited)]
        tasks = [await pool.begin(calls[0]), await pool.begin(calls[1])]
        before = 30 * MB
        tasks += [await pool.begin(calls[2]), await pool.begin(calls[3])]
        large, free, fits, grows = (pool.worker_of(call) for call in calls)
        figures = zip((large, free, fits, grows), (1000, 2000, 100, 101), strict=True)
        usage.update({process.pid: ProcessStats(size * MB, 0.0, 4) for process, size in figures})
        assert isinstance(await error_of(tasks[3]), WorkerCrashed)
        assert grows.ended_for is ExitCause.OOM
        assert grows.kill_reason == "its program's memory limit of 100 MiB (memory_mb)"
        assert [process.ended_for for process in (large, free, fits)] == [None, None, None]
        usage[large.pid] = ProcessStats(1001 * MB, 0.0, 4)
        assert isinstance(await error_of(tasks[0]), WorkerCrashed)
        for process, task in ((free, tasks[1]), (fits, tasks[2])):
            process.answer(result())
            await task


async def test_old_workers_are_recycled(usage: dict[int, ProcessStats | Exception]) -> None:
    """Each of them, with its replacement ready first."""
    async with bench(SessionPoolV2, size=2, recycle=RecycleLimits(age_s=3600.0)) as pool:
        old = list(pool.spawner.processes)
        for process in old:
            process.started_at = time.time() - 3601
        await until(lambda: not set(old) & set(pool.spawner.living))
        assert pool.observer.exits == [ExitCause.RECYCLED] * 2


async def test_an_inspection_that_fails_goes_on(usage: dict[int, ProcessStats | Exception]) -> None:
    """After any error the limits hold as before."""
    async with bench(SessionPoolV2, size=2, recycle=RecycleLimits(rss_bytes=100 * MB)) as pool:
        bad, big = pool.spawner.processes
        with structlog.testing.capture_logs() as logged:
            usage[bad.pid] = OSError(24, "Too many open files")
            await until(lambda: any(line.get("task") == "inspection_v1" for line in logged))
        usage[big.pid] = ProcessStats(201 * MB, 0.0, 4)
        del usage[bad.pid]
        await until(big.exited.done)
        assert big.ended_for is ExitCause.OOM


async def test_one_bad_worker_does_not_keep_the_others_from_being_inspected(
    usage: dict[int, ProcessStats | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever order they come."""

    def cannot_be_killed(_: ExitCause, reason: str | None = None) -> None:
        raise OSError(1, "Operation not permitted")

    async with bench(SessionPoolV2, size=3, recycle=RecycleLimits(rss_bytes=100 * MB)) as pool:
        first, big, last = pool.spawner.processes
        for process in (first, last):
            monkeypatch.setattr(process, "kill", cannot_be_killed)
            usage[process.pid] = ProcessStats(201 * MB, 0.0, 4)
        usage[big.pid] = ProcessStats(201 * MB, 0.0, 4)
        await until(big.exited.done)
        monkeypatch.undo()
        for process in (first, last):
            process.die()


@pytest.mark.parametrize(
    "error", [psutil.NoSuchProcess(1), psutil.AccessDenied(1), OSError(24, "Too many open files"), ValueError("?")]
)
async def test_a_process_that_cannot_be_measured_has_no_figures(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever psutil makes of it."""

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(psutil, "Process", fail)
    assert process_stats(os.getpid()) is None


# --- every order of faults


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 3),
    steps=st.lists(st.sampled_from(["call", "answer", "crash", "lose", "cancel", "fail", "turn"]), max_size=30),
    failures=st.lists(st.sampled_from(FAILURES), max_size=4),
)
def test_a_pool_comes_back_after_any_faults(size: int, steps: list[str], failures: list[Exception]) -> None:
    """In any order of calls, crashes, cancellations and failing starts every call ends, and the pool is whole again."""
    asyncio.run(faults(size, steps, failures))


async def faults(size: int, steps: list[str], failures: list[Exception]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(supervisor, "backoff_s", lambda _: 0.0)
        async with bench(SessionPoolV2, size=size) as pool:
            tasks: list[asyncio.Task[Result]] = []
            for step in steps:
                await take(step, pool, tasks, failures)
            for process in pool.spawner.living:
                if process.is_lost:
                    process.die()
            while any(not task.done() for task in tasks):
                await turns()
                for process in pool.busy():
                    process.answer(result())
            await whole(pool, size)


async def take(step: str, pool: Bench, tasks: list[asyncio.Task[Result]], failures: list[Exception]) -> None:
    """One step; one that is impossible now lets the event loop run."""
    match step:
        case "call":
            tasks.append(await pool.begin(pool.call()))
        case "answer" if pool.busy():
            pool.busy()[0].answer(result())
        case "crash" if pool.spawner.living:
            pool.spawner.living[0].die()
        case "lose" if pool.spawner.living:
            pool.spawner.living[-1].is_lost = True
        case "cancel" if tasks:
            tasks[-1].cancel()
        case "fail" if failures:
            pool.spawner.failures.append(failures.pop())
        case _:
            await turns()


async def test_a_call_has_its_whole_time_once_its_program_is_loaded() -> None:
    """While the program loads, the limit of loading counts; afterwards the deadline, later by as long as that took."""
    async with bench(SessionPoolV2, size=1) as pool:
        loop = asyncio.get_running_loop()
        call = pool.call(seconds=0.5)
        answer = await pool.begin(call)
        process, deadline = pool.worker_of(call), call.deadline
        process.begin_load(loop.time() + 60)
        await until(lambda: loop.time() > deadline + 0.1)
        assert process.ended_for is None
        process.loaded(0.2)
        assert call.deadline == deadline + 0.2
        with pytest.raises(ExecutionTimeout):
            await answer
        assert loop.time() >= call.deadline
        assert process.ended_for is ExitCause.TIMEOUT


async def test_a_close_that_is_cancelled_can_be_repeated() -> None:
    """A retired pool is closed by its own task, which the service's end cancels, and then by the service."""
    async with bench(SessionPoolV2) as pool:
        workers = pool.spawner.living
        for worker in workers:
            worker.hangs = True
        closing = asyncio.ensure_future(pool.engine.aclose())
        await turns()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not any(worker.exited.done() for worker in workers)
        for worker in workers:
            worker.die(ExitCause.SHUTDOWN)
        await asyncio.wait_for(pool.engine.aclose(), 10)
