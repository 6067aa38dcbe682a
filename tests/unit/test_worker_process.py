"""A worker as the service sees it: it is told a definition once, and runs the right one ever after."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from common import own_process
from common.background import Background
from pools.calls import Call, Program, Result
from pools.process.exits import ExitCause
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from pools.process.told_definitions import MAX_TOLD, MAX_TOLD_BYTES
from poolshift.worker.definitions import Definition, Field, Signature

pytestmark = pytest.mark.anyio


@pytest.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    background = Background()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(own_process.ROOT)}
    spawner = Spawner(
        ProgramCode(allowed_modules=("bench.programs",), own_root=own_process.ROOT), environment, background=background
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
    return Program(str(number), f"p-{number}", Definition("python", signature, "bench.programs:increment"))


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
