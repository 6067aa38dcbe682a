"""The engine whose workers run many calls at once, on real processes: who runs beside whom, and at whose cost."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.background import Background
from pools.async_pool import AsyncPool
from pools.calls import Call, Program
from pools.engine import PoolOptions
from pools.errors import (
    CheckoutTimeout,
    ExecutionError,
    ExecutionTimeout,
    Withdrawn,
    WorkerCrashed,
)
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from pools.supervisor import MIB, RecycleLimits
from poolshift.worker.definitions import Definition, Field, Limits, Signature
from tests.support.fake_pools import FakeObserver
from tests.support.pools import executed
from tests.support.service import ROOT
from tests.support.waiting import wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

MakePool = Callable[..., Awaitable["Bench"]]
FOREVER = "3600"


class Bench:
    """A pool on real workers, and what a test asks of it."""

    def __init__(self, pool: AsyncPool, observer: FakeObserver) -> None:
        self.pool = pool
        self.observer = observer
        self._programs: dict[tuple[str, ...], Program] = {}
        self._numbers = 0

    def call(
        self,
        function: str,
        *,
        deadline_s: float = 30.0,
        idempotent: bool = False,
        memory_mb: int | None = None,
        **given: str,
    ) -> Call:
        """A call of a function of `tests.support.beside_others`."""
        fields = tuple(Field(name, "string") for name in given)
        limits = None if memory_mb is None else Limits(memory_mb=memory_mb)
        signature = Signature(fields, (Field("result", "string"),))
        entrypoint = f"tests.support.beside_others:{function}"
        definition = Definition("python", signature, entrypoint, idempotent=idempotent, limits=limits)
        program = self._programs.setdefault((function, *given), Program(function, function, definition))
        self._numbers += 1
        deadline = asyncio.get_running_loop().time() + deadline_s
        return Call(f"{self._numbers:032x}", program, msgspec.json.encode(given), deadline)

    def begin(self, function: str, **options: Any) -> "asyncio.Task[str]":
        """Starts a call."""
        return asyncio.ensure_future(self.run(self.call(function, **options)))

    async def run(self, call: Call) -> str:
        result: str = msgspec.json.decode((await executed(self.pool, call)).outputs)["result"]
        return result

    async def loaded(self, *functions: str) -> None:
        """Has the functions loaded, with one call each."""
        for function in functions:
            await self.begin(function, seconds="0")

    async def runs(self, count: int) -> None:
        """Waits until so many calls run."""

        async def do_they() -> bool:
            return (await self.pool.snapshot()).busy == count

        await wait_until_async(do_they, f"{count} calls run")

    async def exits(self) -> dict[str, int]:
        return {str(cause): count for cause, count in (await self.pool.snapshot()).worker_exits_total.items()}


@pytest.fixture
async def make_pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakePool]:
    """Makes a pool of one worker, or of `size`; options in capitals are variables of its workers."""
    monkeypatch.chdir(ROOT)
    async with AsyncExitStack() as stack:

        async def make(size: int = 1, **options: Any) -> Bench:
            variables = {name: options.pop(name) for name in list(options) if name.isupper()}
            background, observer = Background(), FakeObserver()
            code = ProgramCode(allowed_modules=("tests.support",), own_root=ROOT, is_shared=True)
            spawner = Spawner(code, {"PATH": "/usr/bin", **variables}, background=background)
            stack.push_async_callback(spawner.aclose)
            stack.push_async_callback(background.aclose)
            settings = {"checkout_timeout_s": 20.0, "worker_concurrency": 64} | options
            pool = AsyncPool("v2", PoolOptions(size, **settings), spawner, observer, background)
            stack.push_async_callback(pool.aclose)
            await pool.start()
            return Bench(pool, observer)

        yield make


@pytest.fixture
async def bench(make_pool: MakePool) -> Bench:
    """A pool of one worker."""
    return await make_pool()


async def errors_of(*tasks: "asyncio.Task[str]") -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)


def _holds(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return condition()

    return holds


async def test_calls_run_beside_each_other(bench: Bench) -> None:
    """None of them ends before all have come to the same place in one process."""
    tasks = [bench.begin("meets", name="all", others="64") for _ in range(64)]
    assert len({*await asyncio.gather(*tasks)}) == 1


async def test_more_calls_than_lanes_wait(make_pool: MakePool, tmp_path: Path) -> None:
    """Until one of those that run ends."""
    bench = await make_pool(worker_concurrency=2, checkout_timeout_s=0.3)
    await bench.begin("waits", seconds="0")
    tasks = [bench.begin("waits_for_file", path=str(tmp_path / "go")) for _ in range(2)]
    await bench.runs(2)
    (error,) = await errors_of(bench.begin("waits", seconds="0"))
    assert isinstance(error, CheckoutTimeout)
    (tmp_path / "go").touch()
    await asyncio.gather(*tasks)
    await bench.begin("waits", seconds="0")


async def test_a_plain_function_has_its_worker_for_itself(bench: Bench, tmp_path: Path) -> None:
    """The call waits for those before it, those behind wait for it, and it counts as queued meanwhile."""
    await bench.loaded("waits", "has_it_alone")
    before = bench.begin("waits_for_file", path=str(tmp_path / "go"))
    await bench.runs(1)
    plain = bench.call("has_it_alone", seconds="0")
    alone = asyncio.ensure_future(bench.run(plain))
    await asyncio.sleep(0)
    behind = bench.begin("waits", seconds="0")
    for _ in range(3):
        assert (await bench.pool.snapshot()).busy == 1  # nothing is loaded again for it
    assert not alone.done()
    assert not behind.done()
    (tmp_path / "go").touch()
    assert {type(one) for one in await errors_of(before, alone, behind)} == {str}
    assert plain.queued_s > 0
    assert plain.load_s == 0


async def test_plain_functions_let_others_serve_on(make_pool: MakePool, tmp_path: Path) -> None:
    """With two workers one drains for them; the other takes calls."""
    bench = await make_pool(2, worker_concurrency=5)
    first = [bench.begin("waits_for_file", path=str(tmp_path / "first")) for _ in range(6)]
    await bench.runs(6)
    (tmp_path / "first").touch()
    await asyncio.gather(*first)
    long = [bench.begin("waits_for_file", path=str(tmp_path / "go")) for _ in range(6)]
    await bench.runs(6)
    plain = [bench.begin("has_it_alone", seconds="0") for _ in range(4)]
    await asyncio.wait_for(bench.begin("waits_for_file", path=str(tmp_path / "first")), 20)
    assert not any(task.done() for task in (*long, *plain))
    (tmp_path / "go").touch()
    await asyncio.gather(*long, *plain)


async def test_a_deadline_cancels_its_call_alone(bench: Bench, tmp_path: Path) -> None:
    """The program cleans up, the others run on, and the worker lives."""
    await bench.loaded("waits")
    other = bench.begin("waits_for_file", path=str(tmp_path / "go"))
    (error,) = await errors_of(bench.begin("cleans_up", path=str(tmp_path / "clean"), deadline_s=0.3))
    assert isinstance(error, ExecutionTimeout)
    assert (tmp_path / "clean").read_text() == "cleaned up"
    (tmp_path / "go").touch()
    await other
    assert await bench.exits() == {}


async def test_a_client_that_leaves_cancels_its_call_alone(bench: Bench, tmp_path: Path) -> None:
    """The lane is free once the program runs no more."""
    other = bench.begin("waits_for_file", path=str(tmp_path / "go"))
    left = bench.begin("cleans_up", path=str(tmp_path / "clean"))
    await wait_until_async(_holds((tmp_path / "clean").exists), "it has begun")
    left.cancel()
    await bench.runs(1)
    assert (tmp_path / "clean").read_text() == "cleaned up"
    (tmp_path / "go").touch()
    await other
    assert await bench.exits() == {}


async def test_a_rollback_withdraws_running_calls_alone(bench: Bench, tmp_path: Path) -> None:
    """They may run elsewhere at once; the others and the worker stay."""
    other = bench.begin("waits_for_file", path=str(tmp_path / "go"))
    withdrawn = bench.begin("cleans_up", path=str(tmp_path / "clean"))
    await wait_until_async(_holds((tmp_path / "clean").exists), "it has begun")
    assert bench.pool.withdraw_running(lambda call: call.program.id == "cleans_up") == 1
    (error,) = await errors_of(withdrawn)
    assert isinstance(error, Withdrawn)
    (tmp_path / "go").touch()
    await other
    assert await bench.exits() == {}


async def test_a_call_may_be_cancelled_before_its_first_step(bench: Bench) -> None:
    """A client leaves while a step of another call takes long: the worker answers, and nobody else is hurt."""
    await bench.loaded("waits", "blocks")
    other = bench.begin("waits", seconds="0.5")
    await bench.runs(1)
    step = bench.begin("blocks", seconds="0.1")
    left = bench.begin("waits", seconds=FOREVER)
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(other, step)
    await bench.runs(0)
    assert await bench.exits() == {}
    assert (await bench.pool.snapshot()).run_alone == ()


async def test_a_deadline_counts_while_another_program_is_loaded(make_pool: MakePool, tmp_path: Path) -> None:
    """The load goes on, and ends well."""
    bench = await make_pool(SLOW_TO_LOAD=str(tmp_path / "loaded"))
    await bench.loaded("waits")
    late = bench.begin("waits", seconds=FOREVER, deadline_s=0.5)
    await bench.runs(1)
    loading = bench.begin("SlowToLoad", seconds="1")
    (error,) = await errors_of(late)
    assert isinstance(error, ExecutionTimeout)
    assert not loading.done()
    (tmp_path / "loaded").touch()
    assert await loading == "1"
    assert await bench.exits() == {}


async def test_a_deadline_amid_the_end_of_left_tasks_costs_nobody_else(bench: Bench) -> None:
    """The program has ended, and what it left cleans up for longer than its call has time."""
    await bench.loaded("waits")
    other = bench.begin("waits", seconds="1.5")
    await errors_of(bench.begin("leaves_a_cleaner", seconds="1", deadline_s=0.3))
    await other
    assert await bench.exits() == {}
    assert (await bench.pool.snapshot()).run_alone == ()


async def test_who_cannot_hear_a_cancellation_does_not_ignore_it(bench: Bench) -> None:
    """A call whose deadline passes while another blocks the worker is not the one to blame."""
    await bench.loaded("waits", "blocks")
    late = bench.begin("waits", seconds=FOREVER, deadline_s=0.3)
    await bench.runs(1)
    errors = await errors_of(late, bench.begin("blocks", seconds="20"))
    assert [type(error) for error in errors] == [ExecutionTimeout, WorkerCrashed]
    assert {one.key for one in (await bench.pool.snapshot()).run_alone} == {"blocks.1"}


async def test_who_ignores_cancellation_costs_the_worker(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The call is over time, the other is told of the death, and the program is run alone from then on."""
    await bench.loaded("waits")
    other = bench.begin("waits", seconds=FOREVER)
    errors = await errors_of(bench.begin("ignores_cancellation", seconds=FOREVER, deadline_s=0.3), other)
    assert [type(error) for error in errors] == [ExecutionTimeout, WorkerCrashed]
    assert not errors[1].is_suspected
    assert await bench.exits() == {"timeout": 1}
    (alone,) = (await bench.pool.snapshot()).run_alone
    assert (alone.key, "did not end when it was cancelled" in alone.reason) == ("ignores_cancellation.1", True)
    assert re.search(r"program is run alone from now on.*ignores_cancellation", capsys.readouterr().out)


async def test_a_death_answers_each_call_once_and_blames_nobody(bench: Bench) -> None:
    """Each program runs alone until a call of it has ended well: so the culprit is found."""
    tasks = [bench.begin("meets", name="death", others="1000") for _ in range(15)]
    errors = await errors_of(*tasks, bench.begin("dies_with", others="15"))
    assert {type(error) for error in errors} == {WorkerCrashed}
    snapshot = await bench.pool.snapshot()
    assert {one.key for one in snapshot.run_alone} == {"meets.1", "dies_with.1"}
    assert snapshot.quarantined == ()
    await bench.begin("meets", name="after", others="1")
    assert {one.key for one in (await bench.pool.snapshot()).run_alone} == {"dies_with.1"}
    for _ in range(3):
        (error,) = await errors_of(bench.begin("dies_with", others="0"))
        assert isinstance(error, WorkerCrashed)
        assert not error.is_counted
    assert [one.key for one in (await bench.pool.snapshot()).quarantined] == ["dies_with.1"]
    await asyncio.gather(*(bench.begin("meets", name="well", others="8") for _ in range(8)))


async def test_who_blocks_the_loop_is_named_and_run_alone(
    make_pool: MakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it blocks. A reload gives it another chance."""
    bench = await make_pool(2)
    await bench.loaded("waits")
    blocking = bench.begin("blocks", seconds="1.5")

    async def is_named() -> bool:
        return bool((await bench.pool.snapshot()).run_alone)

    await wait_until_async(is_named, "the program is run alone")
    assert not blocking.done()
    assert re.search(r"program is run alone from now on.*blocks.*held up the event loop", capsys.readouterr().out)
    await blocking
    await wait_until_async(_holds(lambda: len(bench.observer.blocked) == 1), "its time is told")
    assert bench.observer.blocked[0] > 1
    await bench.pool.reload(is_forced=True)
    assert (await bench.pool.snapshot()).run_alone == ()


async def test_a_leaking_program_has_its_worker_replaced_when_it_is_drained(make_pool: MakePool) -> None:
    """No call is lost, however far it grows past the limit."""
    limits = RecycleLimits(rss_bytes=60 * MIB)
    bench = await make_pool(2, recycle=limits)

    async def is_replaced() -> bool:
        await asyncio.gather(*(bench.begin("leaks", mib="16") for _ in range(16)))
        return bool((await bench.exits()).get("recycled"))

    await wait_until_async(is_replaced, "a worker is replaced")
    assert set(await bench.exits()) == {"recycled"}


async def test_a_long_call_does_not_hold_up_a_reload_for_others(make_pool: MakePool, tmp_path: Path) -> None:
    """New workers serve while the old one ends its call."""
    bench = await make_pool(2)
    long = bench.begin("waits_for_file", path=str(tmp_path / "go"))
    await bench.runs(1)
    reload = asyncio.ensure_future(bench.pool.reload(is_forced=True))

    async def are_new() -> bool:
        workers = (await bench.pool.snapshot()).workers
        return len(workers) == 3 and sum(worker.executions == 0 for worker in workers) == 2

    await wait_until_async(are_new, "two new workers are there beside the old one")
    await bench.begin("waits", seconds="0")
    assert not long.done()
    (tmp_path / "go").touch()
    await long
    await reload


async def test_a_left_task_is_ended_with_its_call(bench: Bench, tmp_path: Path) -> None:
    """The call is over, so nothing of it runs on."""
    await bench.begin("leaves_a_task", path=str(tmp_path / "late"))
    await bench.begin("waits", seconds="0.4")
    assert not (tmp_path / "late").exists()


async def test_setup_belongs_to_the_loop_of_the_calls(bench: Bench) -> None:
    """A client of HTTP that `setup()` opens, for example, can be used by them, beside calls that run."""
    other = bench.begin("waits", seconds="0.3")
    words = await asyncio.gather(*(bench.begin("Keeper", word=f"w{number}") for number in range(4)))
    assert words == [f"w{number} True" for number in range(4)]
    await other


async def test_a_stream_of_one_does_not_hold_up_another(bench: Bench) -> None:
    """The last step of an async generator is its result."""
    results = await asyncio.gather(*(bench.begin("counts", steps=str(steps)) for steps in (3, 5)))
    assert results == ["2", "4"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(1, 4), min_size=2, max_size=6))
async def test_contexts_and_lines_belong_to_their_call(
    bench: Bench, capsys: pytest.CaptureFixture[str], steps: list[int]
) -> None:
    """Whatever the interleaving: a call sees its own context variables, and each line has its ids."""
    calls = [bench.call("says_its_own", word=f"word-{number}", steps=str(count)) for number, count in enumerate(steps)]
    capsys.readouterr()
    results = await asyncio.gather(*(bench.run(call) for call in calls))
    assert results == [f"word-{number}" for number in range(len(steps))]
    lines = [f"{number}:{call.execution_id}" for number, call in enumerate(calls) for _ in range(steps[number])]
    told: list[str] = []

    async def are_told() -> bool:
        text = capsys.readouterr().out
        told.extend(f"{word}:{ids}" for word, ids in re.findall(r"word-(\d+) .*execution_id=(\w+)", text))
        return len(told) >= len(lines)

    await wait_until_async(are_told, "all lines are logged")
    assert sorted(told) == sorted(lines)


async def test_copies_run_beside_calls(bench: Bench) -> None:
    """Several on one worker; one that is ended early is cancelled, and the worker lives."""
    await bench.loaded("waits")
    real = bench.begin("waits", seconds=FOREVER)
    await bench.runs(1)
    copies = [bench.pool.begin_idle(bench.call("waits", seconds=FOREVER)) for _ in range(3)]
    assert all(copies)
    await bench.runs(4)
    for copy in copies:
        assert copy is not None
        bench.pool.end_idle(copy)
    await bench.runs(1)
    assert not real.done()
    real.cancel()
    await bench.runs(0)
    assert await bench.exits() == {}


async def test_an_error_is_its_calls_alone(bench: Bench) -> None:
    """Bad inputs of one leave the others alone."""
    good = [bench.begin("waits", seconds="0.2") for _ in range(4)]
    (error,) = await errors_of(bench.begin("waits", seconds="no number"))
    assert isinstance(error, ExecutionError)
    assert error.code == "program_error"
    await asyncio.gather(*good)
