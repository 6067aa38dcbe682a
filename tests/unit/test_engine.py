"""Both engines on fake workers: admission, queue, deadlines, retry, quarantine, drain, withdrawal, backpressure."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from analysis.guardrails import Config
from pools import backpressure
from pools.calls import Call, Result
from pools.engine import Engine
from pools.errors import (
    CheckoutTimeout,
    ExecutionTimeout,
    InvalidInputs,
    PoolClosed,
    PoolOverloaded,
    ProgramError,
    ProgramQuarantined,
    Withdrawn,
    WorkerCrashed,
)
from pools.process.exits import ExitCause
from pools.quarantine import DEATHS_IN_A_ROW
from pools.session_pool import SessionPool
from pools.supervisor import RecycleLimits
from routing.rollout.flag import RolloutFlag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Rollout, Source
from routing.router import Router
from routing.telemetry.recorder import Recorder
from routing.versions import Version
from tests.support.fake_pools import FakeSink, echo_program, result
from tests.support.pools import executed
from tests.support.rollout import MemoryLog
from tests.unit.pool_on_fakes import ENGINES, Bench, bench, error_of, turns, until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine", ENGINES)]


@pytest.fixture
async def pool(engine: type[Engine]) -> AsyncIterator[Bench]:
    async with bench(engine) as made:
        yield made


# --- admission and the queue


async def test_a_call_runs_and_its_result_arrives(pool: Bench) -> None:
    """Sent once, to one worker, which is idle again afterwards."""
    call = pool.call()
    task = await pool.begin(call)
    assert call.dispatched_at > 0
    pool.worker_of(call).answer(result("hello"))
    assert bytes((await task).outputs) == b'{"text":"hello"}'
    assert [len(process.sent) for process in pool.spawner.processes if process.sent] == [1]
    snapshot = await pool.engine.snapshot()
    assert (snapshot.idle, snapshot.busy, snapshot.dispatched_total) == (2, 0, 1)


async def test_so_many_calls_run_at_once(pool: Bench, engine: type[Engine]) -> None:
    """One on V1, whose coordinator attends to one at a time; as many as there are workers on V2."""
    calls = [pool.call() for _ in range(4)]
    tasks = [await pool.begin(call) for call in calls]
    assert len(pool.busy()) == (1 if engine is SessionPool else 2)
    for call in calls:  # first come, first served
        pool.worker_of(call).answer(result())
        await turns()
    await asyncio.gather(*tasks)


async def test_an_error_of_the_program_is_the_calls_alone(pool: Bench) -> None:
    """The worker serves on after its program's error."""
    call = pool.call()
    task = await pool.begin(call)
    pool.worker_of(call).answer(ProgramError("boom"))
    assert isinstance(await error_of(task), ProgramError)
    assert len(pool.spawner.living) == 2


async def test_what_cannot_be_sent_takes_no_worker(pool: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ExecutionError ends the call; anything else ends it too, and its worker, of which nothing is known."""
    for error, left in ((InvalidInputs("too big"), 2), (OSError(12, "Cannot allocate memory"), 1)):
        old = list(pool.spawner.living)
        for process in old:
            monkeypatch.setattr(process, "run", raises(error))
        task = await pool.begin(pool.call())
        assert await asyncio.wait([task])
        assert task.exception() is error
        await until(lambda: len(pool.spawner.living) == 2)
        assert len([process for process in old if not process.exited.done()]) == left
        monkeypatch.undo()


def raises(error: Exception) -> Callable[..., None]:
    def run(*_: object) -> None:
        raise error

    return run


async def test_a_dead_worker_costs_no_call(pool: Bench) -> None:
    """One that turns out to be dead gives the call to another; all dead, it waits for a new one."""
    for process in pool.spawner.processes:
        process.is_lost = True
    call = pool.call()
    task = await pool.begin(call)
    for process in list(pool.spawner.living):
        if process.is_lost:
            process.die(ExitCause.SIGNAL)
    await until(lambda: call.dispatched_at > 0)
    pool.worker_of(call).answer(result())
    await task


async def test_a_full_queue_sheds(engine: type[Engine]) -> None:
    """At once, with the time to come again; those that wait are served."""
    async with bench(engine, size=1, queue_limit=2) as pool:
        calls = [pool.call() for _ in range(3)]
        tasks = [await pool.begin(call) for call in calls]
        error = await error_of(await pool.begin(pool.call()))
        assert isinstance(error, PoolOverloaded)
        assert error.retry_after_s is not None
        assert not error.started
        for call in calls:
            pool.worker_of(call).answer(result())
            await turns()
        await asyncio.gather(*tasks)


async def test_a_session_that_floods_the_queue_is_shed(engine: type[Engine]) -> None:
    """The last call of the longest lane makes room for another session's."""
    async with bench(engine, size=1, queue_limit=3) as pool:
        running = await pool.begin(pool.call())
        flood = [await pool.begin(pool.call(session_id="flood")) for _ in range(3)]
        modest = await pool.begin(pool.call(session_id="modest"))
        assert isinstance(await error_of(flood[-1]), PoolOverloaded)
        for task in (running, *flood[:2], modest):
            task.cancel()


async def test_a_deadline_that_cannot_be_met_sheds(engine: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """By what calls have taken so far: queue × service time ÷ workers."""
    async with bench(engine, size=1) as pool:
        monkeypatch.setattr(pool.engine, "_service_time_s", 10.0)
        tasks = [await pool.begin(pool.call()) for _ in range(2)]
        error = await error_of(await pool.begin(pool.call(seconds=1.0)))
        assert isinstance(error, PoolOverloaded)
        assert "longer than the deadline" in error.detail
        for task in tasks:
            task.cancel()


async def test_a_session_comes_to_its_worker_again(pool: Bench) -> None:
    """For as long as that is idle."""
    home = set()
    for _ in range(5):
        call = pool.call(session_id="mine")
        task = await pool.begin(call)
        home.add(pool.worker_of(call).pid)
        pool.worker_of(call).answer(result())
        await task
    assert len(home) == 1


# --- deadlines


async def test_no_worker_in_time(engine: type[Engine]) -> None:
    """A call that has waited for the checkout timeout is told so, and did not start."""
    async with bench(engine, size=1, checkout_timeout_s=0.02) as pool:
        running = await pool.begin(pool.call())
        call = pool.call()
        error = await error_of(await pool.begin(call))
        assert isinstance(error, CheckoutTimeout)
        assert (error.started, call.dispatched_at, call.queued_s > 0) == (False, 0.0, True)
        running.cancel()


async def test_an_overdue_call_is_answered_when_its_worker_is_dead(engine: type[Engine]) -> None:
    """Not before: until then the program may still run; a late answer of its worker is not taken."""
    async with bench(engine, size=1) as pool:
        call = pool.call(seconds=0.02)
        task = await pool.begin(call)
        process = pool.worker_of(call)
        process.hangs = True
        await until(lambda: process.ended_for is ExitCause.TIMEOUT)
        process.answer(result("too late"))
        await turns()
        assert not task.done()
        process.die()
        assert isinstance(await error_of(task), ExecutionTimeout)


@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_a_call_that_was_accepted_before_is_never_shed(engine: type[Engine], limit: int) -> None:
    """No limit, no estimate of the wait and no newcomer sheds a call from the other pool."""
    async with bench(engine, size=1, queue_limit=limit) as pool:
        running = pool.call()
        tasks = [await pool.begin(running)]
        pool.engine._service_time_s = 1000.0
        moved = [pool.call(seconds=30, session_id="flood") for _ in range(5)]
        for call in moved:
            call.is_accepted = True
            tasks.append(await pool.begin(call))
        with pytest.raises(PoolOverloaded):
            await executed(pool.engine, pool.call(seconds=1e6, session_id="another"))
        assert (await pool.engine.snapshot()).queue_depth == len(moved)
        for call in (running, *moved):
            pool.worker_of(call).answer(result())
            await turns()
        await asyncio.gather(*tasks)


# --- retry and quarantine


async def begin_by_router(pool: Bench, call: Call) -> "asyncio.Task[Result]":
    """Starts the call by way of the router, which decides on its retry."""
    flag = RolloutFlag(MemoryLog(), Rollout(1, 0, None, Source.DEFAULT, "start", None))
    router = Router(
        {Version.V1: pool.engine},
        flag,
        Recorder(CollectorRegistry(), {}),
        judge=LiveJudge(Config()),
        pin=None,
        salt="test",
    )
    task = asyncio.ensure_future(router.execute(router.route(None), call))
    await turns()
    return task


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_crash_is_retried_once_for_an_idempotent_program(pool: Bench, idempotent: bool) -> None:
    """Nobody else's call is run twice, and none three times."""
    call = pool.call(echo_program(idempotent=idempotent))
    task = await begin_by_router(pool, call)
    for _ in range(2 if idempotent else 1):
        pool.worker_of(call).die()
        await turns()
    error = await error_of(task)
    assert isinstance(error, WorkerCrashed)
    assert sum(process.sent.count(call) for process in pool.spawner.processes) == (2 if idempotent else 1)


async def test_a_stream_that_was_heard_is_not_run_again(pool: Bench) -> None:
    """Before its first event it is."""
    for events in (0, 1):
        sink = FakeSink()
        call = pool.call(echo_program(idempotent=True), events=sink)
        task = await begin_by_router(pool, call)
        process = pool.worker_of(call)
        for number in range(events):
            process.emit(number)
        process.die()
        await until(lambda: task.done() or call in [busy.call for busy in pool.busy()])  # noqa: B023
        assert task.done() is bool(events)
        if events:
            assert isinstance(await error_of(task), WorkerCrashed)
        else:
            pool.worker_of(call).answer(result())
            await task


async def test_the_retry_of_the_death_that_quarantines_is_let_in(pool: Bench) -> None:
    """The program is stopped for calls that come afterwards."""
    for _ in range(DEATHS_IN_A_ROW - 1):
        await kill_worker_of(pool, "echo")
    call = pool.call(echo_program(idempotent=True))
    task = await begin_by_router(pool, call)
    pool.worker_of(call).die()
    await until(lambda: call in [busy.call for busy in pool.busy()])
    pool.worker_of(call).answer(result())
    await task


async def kill_worker_of(pool: Bench, name: str, *, is_ours: bool = False) -> None:
    call = pool.call(echo_program(name))
    task = await pool.begin(call)
    pool.worker_of(call).die(is_ours=is_ours)
    assert isinstance(await error_of(task), WorkerCrashed)
    await until(lambda: len(pool.spawner.living) == 2)


async def test_a_program_that_keeps_killing_workers_is_stopped(pool: Bench) -> None:
    """Others go on."""
    for _ in range(DEATHS_IN_A_ROW):
        await kill_worker_of(pool, "bad")
    with pytest.raises(ProgramQuarantined):
        await executed(pool.engine, pool.call(echo_program("bad")))
    good = pool.call()
    task = await pool.begin(good)
    pool.worker_of(good).answer(result())
    await task


async def test_what_is_our_fault_quarantines_nothing(pool: Bench) -> None:
    """Workers that die with their zygote, say."""
    for _ in range(DEATHS_IN_A_ROW + 1):
        await kill_worker_of(pool, "unlucky", is_ours=True)


# --- callers that leave, the router that takes back


async def test_a_caller_that_leaves_frees_its_place(engine: type[Engine]) -> None:
    """In the queue at once; a running call's worker is killed and replaced."""
    async with bench(engine, size=1) as pool:
        running_call = pool.call()
        running = await pool.begin(running_call)
        queued = await pool.begin(pool.call())
        process = pool.worker_of(running_call)
        for task in (queued, running):
            task.cancel()
        await until(lambda: bool(pool.observer.exits))
        assert (process.ended_for, pool.observer.exits) == (ExitCause.CANCELLED, [ExitCause.CANCELLED])
        assert (await pool.engine.snapshot()).queue_depth == 0
        await until(lambda: pool.engine.is_drained and pool.engine.is_ready)


async def test_queued_calls_are_taken_back(engine: type[Engine]) -> None:
    """Withdrawing takes the named queued calls back, and no running call."""
    async with bench(engine, size=1) as pool:
        calls = [pool.call(session_id=name) for name in ("a", "b", "b")]
        tasks = [await pool.begin(call) for call in calls]
        assert pool.engine.withdraw(lambda call: call.session_id == "b") == 2
        for task in tasks[1:]:
            assert isinstance(await error_of(task), Withdrawn)
        pool.worker_of(calls[0]).answer(result())
        await tasks[0]


async def test_running_calls_are_taken_back(pool: Bench) -> None:
    """At once, and their workers are killed."""
    call = pool.call()
    task = await pool.begin(call)
    process = pool.worker_of(call)
    process.hangs = True
    assert pool.engine.withdraw_running(lambda _: False) == 0
    assert pool.engine.withdraw_running(lambda one: one is call) == 1
    assert isinstance(await error_of(task), Withdrawn)
    assert process.ended_for is ExitCause.CANCELLED
    process.die()


# --- the end


async def test_a_drain_finishes_what_was_accepted(engine: type[Engine]) -> None:
    """New calls are refused; one that another pool had accepted is let in until the pool closes."""
    async with bench(engine, size=1) as pool:
        calls = [pool.call(), pool.call()]
        tasks = [await pool.begin(call) for call in calls]
        pool.engine.refuse()
        with pytest.raises(PoolClosed):
            await executed(pool.engine, pool.call())
        moved = pool.call()
        moved.is_accepted = True
        tasks.append(await pool.begin(moved))
        drained = asyncio.ensure_future(pool.engine.drain())
        for call in (*calls, moved):
            await turns()
            assert not drained.done()
            pool.worker_of(call).answer(result())
            await turns()
        await asyncio.gather(drained, *tasks)
        assert pool.engine.is_drained


async def test_closing_answers_everybody(engine: type[Engine]) -> None:
    """The error tells if the call had started: only a queued call may safely be tried again."""
    async with bench(engine, size=1) as pool:
        running, queued = await pool.begin(pool.call()), await pool.begin(pool.call())
        await pool.engine.aclose()
        errors = [await error_of(task) for task in (running, queued)]
        assert all(isinstance(error, PoolClosed) for error in errors)
        assert [error.started for error in errors if isinstance(error, PoolClosed)] == [True, False]
        assert pool.observer.exits == [ExitCause.SHUTDOWN]


# --- recycling and reloading


async def test_a_worker_is_recycled_after_so_many_calls(engine: type[Engine]) -> None:
    """The replacement is ready before the old worker exits."""
    async with bench(engine, size=1, recycle=RecycleLimits(executions=2)) as pool:
        first = pool.spawner.processes[0]
        for _ in range(2):
            call = pool.call()
            task = await pool.begin(call)
            pool.worker_of(call).answer(result())
            await task
            assert pool.engine.is_ready
        await until(first.exited.done)
        assert pool.observer.exits == [ExitCause.RECYCLED]


async def test_a_reload_replaces_every_worker_and_loses_no_call(engine: type[Engine]) -> None:
    """Idle ones one after another, a busy one when its call is over; one more than the pool's size at most."""
    async with bench(engine, size=3) as pool:
        old = set(pool.spawner.processes)
        call = pool.call()
        task = await pool.begin(call)
        busy = pool.worker_of(call)
        reload = asyncio.ensure_future(pool.engine.reload())
        await until(lambda: old & set(pool.spawner.living) == {busy})
        assert pool.spawner.renewals == 1
        assert len(pool.spawner.living) <= 4
        assert not reload.done()
        busy.answer(result())
        await task
        await asyncio.wait_for(reload, 10)
        assert not old & set(pool.spawner.living)
        assert pool.observer.exits == [ExitCause.RECYCLED] * 3


# --- streams whose client does not read


async def test_a_held_stream_gives_its_worker_back(engine: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once another call needs the worker, and not before."""
    monkeypatch.setattr(backpressure, "HOLD_LIMIT_S", 0.01)
    monkeypatch.setattr(backpressure, "_LOOK_EVERY_S", 0.01)
    async with bench(engine, size=1) as pool:
        sink = FakeSink()
        stream = await pool.begin(pool.call(events=sink))
        assert sink.source is not None
        sink.source.pause()
        assert pool.busy()[0].source.is_paused
        loop, held = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        await until(lambda: loop.time() > held + 5 * backpressure.HOLD_LIMIT_S)
        assert not stream.done()
        waiting = pool.call()
        task = await pool.begin(waiting)
        assert isinstance(await error_of(stream), ExecutionTimeout)
        await until(lambda: waiting.dispatched_at > 0)
        pool.worker_of(waiting).answer(result())
        await task


async def test_v1_attends_to_others_while_a_stream_is_held(engine: type[Engine]) -> None:
    """The coordinator does not wait for a client: another call runs, and then the stream goes on."""
    async with bench(engine, size=2) as pool:
        sink = FakeSink()
        stream_call = pool.call(events=sink)
        stream = await pool.begin(stream_call)
        assert sink.source is not None
        sink.source.pause()
        other = pool.call()
        task = await pool.begin(other)
        sink.source.resume()
        is_held = pool.worker_of(stream_call).source.is_paused
        assert is_held is (engine is SessionPool)
        pool.worker_of(other).answer(result())
        await task
        assert not pool.worker_of(stream_call).source.is_paused
        pool.worker_of(stream_call).answer(result())
        await stream
