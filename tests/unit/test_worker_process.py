"""A worker as the service sees it: it is told a definition once, and runs the right one ever after."""

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from common import own_process
from common.background import Background
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, LoadFailed, LoadTimeout, WorkerFull, WorkerLost
from pools.process.exits import ExitCause
from pools.process.interface import LoadOrder
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from pools.process.told_definitions import MAX_TOLD, MAX_TOLD_BYTES
from poolshift.worker.definitions import Definition, Field, Signature
from tests.support.service import ROOT

pytestmark = pytest.mark.anyio

AHEAD = LoadOrder()


@pytest.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    background = Background()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}{os.pathsep}{own_process.ROOT}"}
    spawner = Spawner(
        ProgramCode(allowed_modules=("tests.support.programs",), own_root=own_process.ROOT),
        environment,
        background=background,
    )
    worker = await spawner.spawn()
    yield worker
    worker.kill(ExitCause.SHUTDOWN)
    await spawner.aclose()
    await background.aclose()


def program(number: int, description: str | None = None) -> Program:
    """One that says by its answer, its number and one, which it is: what it is not given, its own definition gives."""
    given = Field("number", "integer", description, required=False, default=number)
    signature = Signature((given,), (Field("number", "integer"),))
    return Program(str(number), f"p-{number}", Definition("python", signature, "tests.support.programs:increment"))


async def answer(worker: WorkerProcess, one: Program) -> int:
    ended: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
    call = Call(f"of-{one.id}", one, msgspec.Raw(b"{}"), deadline=asyncio.get_running_loop().time() + 60)
    worker.run(call, ended.set_result)
    outcome = await ended
    assert isinstance(outcome, Result), outcome
    number: int = json.loads(bytes(outcome.outputs))["number"]
    return number


async def check(worker: WorkerProcess, programs: Sequence[Program]) -> None:
    for one in programs:
        assert await answer(worker, one) == int(one.key) + 1


async def test_more_definitions_than_a_worker_keeps(worker: WorkerProcess) -> None:
    """In any order, and again: each call runs its own."""
    programs = [program(number) for number in range(MAX_TOLD + MAX_TOLD // 2)]
    for order in (programs, programs[::-1], programs[::7], programs):
        await check(worker, order)
    assert len(worker._definitions) <= MAX_TOLD


async def test_big_definitions_are_not_kept_beyond_a_size(worker: WorkerProcess) -> None:
    """Neither here, where a program that was deleted would take memory, nor there."""
    size = MAX_TOLD_BYTES // 4
    programs = [program(number, "x" * size) for number in range(8)]
    for order in (programs, programs[::-1]):
        await check(worker, order)
    assert 0 < len(worker._definitions) < 4
    huge = program(100, "x" * (MAX_TOLD_BYTES + 1))
    await check(worker, [programs[0], huge, programs[0], huge])


async def load(worker: WorkerProcess, one: Program, order: LoadOrder = AHEAD) -> ExecutionError | None:
    ended: asyncio.Future[ExecutionError | None] = asyncio.get_running_loop().create_future()
    worker.load(one, order, ended.set_result)
    assert worker.loading is one
    return await ended


async def test_a_program_is_loaded_ahead_of_its_call(worker: WorkerProcess) -> None:
    """The call runs at once, without a load; a program that cannot be loaded harms no other."""
    one, other = program(1), program(2)
    assert not worker.has_loaded(one.definition)
    assert await load(worker, one) is None
    assert (worker.loading, worker.due) == (None, math.inf)
    assert worker.has_loaded(one.definition)
    call = Call("e", one, msgspec.Raw(b"{}"), deadline=asyncio.get_running_loop().time() + 60)
    ended: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
    worker.run(call, ended.set_result)
    assert not call.is_loading
    assert isinstance(await ended, Result)
    missing = Program("3", "p-3", Definition("python", Signature((), ()), "tests.support.programs:missing"))
    for _ in range(2):
        failure = await load(worker, missing)
        assert isinstance(failure, LoadFailed)
        assert "missing" in str(failure)
    assert not worker.has_loaded(missing.definition)
    assert await answer(worker, other) == 3
    assert await answer(worker, one) == 2


async def test_a_load_is_not_for_a_worker_that_would_have_to_drop_others(worker: WorkerProcess) -> None:
    """Unless a call waits for it."""
    programs = [program(number) for number in range(MAX_TOLD)]
    await check(worker, programs)
    with pytest.raises(WorkerFull):
        await load(worker, program(MAX_TOLD))
    assert worker.has_loaded(programs[0].definition)
    assert await load(worker, program(MAX_TOLD), LoadOrder("e")) is None
    assert not worker.has_loaded(programs[0].definition)


async def test_a_worker_that_is_killed_amid_a_load_says_so(worker: WorkerProcess) -> None:
    """As the death of the worker, or as a load that took too long."""
    ended: asyncio.Future[ExecutionError | None] = asyncio.get_running_loop().create_future()
    worker.load(program(1), LoadOrder(limit_s=2.0), ended.set_result)
    assert worker.due <= asyncio.get_running_loop().time() + 2.0
    worker.kill(ExitCause.TIMEOUT)
    failure = await ended
    assert isinstance(failure, LoadTimeout)
    assert "2 s" in str(failure)
    with pytest.raises(WorkerLost):
        worker.load(program(2), LoadOrder(), ended.set_result)
