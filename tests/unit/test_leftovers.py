"""A worker between two programs: what a call leaves hits no other, and is put back or has the worker replaced."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from common.background import Background
from pools.calls import Call, Program
from pools.engine import Engine, PoolOptions
from pools.errors import ProgramQuarantined, WorkerCrashed
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from pools.session_pool_v2 import SessionPoolV2
from poolshift.worker.definitions import Definition, Field, FieldType, Signature
from poolshift.worker.leftovers import ALWAYS_CHECKED
from tests.support.leftovers import _HARMLESS, _PUT_BACK, _RECYCLED
from tests.support.pools import executed
from tests.support.service import ROOT
from tests.support.waiting import wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

ECHO = "programs:echo"


class Unobserved:
    def worker_started(self, version: str, seconds: float) -> None: ...
    def worker_exited(self, version: str, cause: str) -> None: ...
    def loop_blocked(self, version: str, seconds: float) -> None: ...


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """A pool of one worker."""
    monkeypatch.chdir(ROOT)
    background = Background()
    spawner = Spawner(
        ProgramCode(allowed_modules=("tests.support",), own_root=ROOT), {"PATH": "/usr/bin"}, background=background
    )
    engine = SessionPoolV2("v2", PoolOptions(1, checkout_timeout_s=20), spawner, Unobserved(), background)
    await engine.start()
    yield engine
    await engine.aclose()
    await background.aclose()
    await spawner.aclose()


async def run(
    pool: Engine, function: str, execution_id: str = "e-1", result: FieldType = "string", **given: str
) -> Any:
    """The output of a function of the tests' programs."""
    fields = tuple(Field(name, "string") for name in given)
    definition = Definition("python", Signature(fields, (Field("result", result),)), f"tests.support.{function}")
    deadline = asyncio.get_running_loop().time() + 30
    program = _programs.setdefault((function, *given), Program(function, function, definition))
    answer = await executed(pool, Call(execution_id, program, msgspec.json.encode(given), deadline))
    return msgspec.json.decode(answer.outputs)["result"]


_programs: dict[tuple[str, ...], Program] = {}


async def finds(pool: Engine, function: str = "finds") -> dict[str, Any]:
    state: dict[str, Any] = await run(pool, f"leftovers:{function}", result="object")
    return state


async def exits(pool: Engine) -> dict[str, int]:
    return {str(cause): count for cause, count in (await pool.snapshot()).worker_exits_total.items()}


@pytest.mark.parametrize("what", _PUT_BACK)
async def test_what_can_be_put_back_is(pool: Engine, what: str) -> None:
    """The next program finds the worker as the first one did, and outlives the alarm."""
    before = await finds(pool)
    assert await run(pool, "leftovers:leaves", what=what) == what
    assert await finds(pool, "finds_late") == before
    assert await exits(pool) == {}


@pytest.mark.parametrize("what", _HARMLESS)
async def test_what_waits_for_work_is_left(pool: Engine, what: str) -> None:
    """A warm worker stays: thread pools and helper processes are what programs keep between calls."""
    before = await finds(pool)
    for _ in range(3):
        assert await run(pool, "leftovers:leaves", what=what) == what
        assert await finds(pool) == before
    assert await exits(pool) == {}


@pytest.mark.parametrize("what", _RECYCLED)
async def test_what_cannot_be_put_back_has_the_worker_replaced(
    pool: Engine, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No call fails, and the log names the program that left it."""
    before = await finds(pool)
    assert await run(pool, "leftovers:leaves", "e-of-it", what=what) == what

    async def is_replaced() -> bool:
        return bool((await finds(pool, "finds_late"))["pid"] != before["pid"])

    await wait_until_async(is_replaced, "another worker answers")
    assert await exits(pool) == {"recycled": 1}
    assert re.search(r"left its worker unfit.*e-of-it.*leftovers:leaves", capsys.readouterr().out)


async def test_a_thread_has_its_worker_replaced_before_the_next_call(pool: Engine) -> None:
    """Each time, the next call runs on another worker."""
    for _ in range(8):
        before = await finds(pool)
        await run(pool, "leftovers:leaves", what="a thread")
        assert (await finds(pool))["pid"] != before["pid"]


async def test_a_program_is_still_checked_after_many_clean_calls(pool: Engine) -> None:
    """Then at intervals: what it leaves is put back, if later."""
    before = await finds(pool)
    for _ in range(ALWAYS_CHECKED + 1):
        await run(pool, "leftovers:leaves", what="a thread that has ended")
    await run(pool, "leftovers:leaves", what="an ignored signal")

    async def is_put_back() -> bool:
        await run(pool, "leftovers:leaves", what="a thread that has ended")
        return bool(await finds(pool) == before)

    await wait_until_async(is_put_back, "a later call's check puts it back")


async def test_the_program_that_left_it_is_blamed(pool: Engine) -> None:
    """Three deaths of a worker that an earlier program left unfit: that program is stopped, the victim is not."""
    for generation in range(1, 4):
        await run(pool, ECHO, f"of-{generation}", nonce="a")
        with pytest.raises(WorkerCrashed):
            await run(pool, "leftovers:dies_of_another", earlier=f"of-{generation}", generation=str(generation))
    with pytest.raises(ProgramQuarantined):
        await run(pool, ECHO, nonce="a")
    with pytest.raises(WorkerCrashed):
        await run(pool, "leftovers:dies_of_another", earlier="of-nobody", generation="4")
