"""The zygote: nothing that the system refuses or a program leaves ends it, or any worker but the program's own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from common.background import Background
from pools.calls import Call, Program, Result
from pools.errors import SpawnFailed
from pools.process.exits import Exit, ExitCause
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from poolshift.worker.definitions import Definition, Field, FieldType, Signature
from tests.support.exits import _ENDS, _LEAVES
from tests.support.service import ROOT, is_alive
from tests.support.waiting import wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

Start = Callable[..., Spawner]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts spawners, which end with the test."""
    monkeypatch.chdir(ROOT)
    spawners, background = [], Background()

    def start_one(preload: tuple[str, ...] = (), **environment: str) -> Spawner:
        spawners.append(
            Spawner(
                ProgramCode(allowed_modules=("tests.support",), own_root=ROOT, own_preload=preload),
                {"PATH": os.environ["PATH"], **environment},
                background=background,
            )
        )
        return spawners[-1]

    yield start_one
    for spawner in spawners:
        await spawner.aclose()
    await background.aclose()


async def call(
    worker: WorkerProcess, function: str, kind: FieldType = "string", result: FieldType = "string", **inputs: Any
) -> Any:
    """The output of a function of the tests' programs, or the error."""
    fields = tuple(Field(name, kind) for name in inputs)
    definition = Definition("python", Signature(fields, (Field("result", result),)), f"tests.support.{function}")
    ended: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
    deadline = asyncio.get_running_loop().time() + 60
    program = Program(function, function, definition)
    worker.run(Call("e-1", program, msgspec.json.encode(inputs), deadline), ended.set_result)
    outcome = await ended
    return msgspec.json.decode(outcome.outputs)["result"] if isinstance(outcome, Result) else outcome


async def end(worker: WorkerProcess) -> Exit:
    """Lets an idle worker exit by itself, and returns how it did."""
    worker.retire(ExitCause.RECYCLED)
    return await worker.exited


async def parent(worker: WorkerProcess) -> int:
    """The zygote's process id."""
    who = await call(worker, "programs:whoami", result="object")
    zygote: int = who["ppid"]
    return zygote


@pytest.mark.parametrize("way", _LEAVES)
async def test_what_a_program_leaves_ends_its_own_worker_alone(start: Start, way: str) -> None:
    """The sibling worker answers on, and the same zygote forks on."""
    spawner = start()
    worker, sibling = await spawner.spawn(), await spawner.spawn()
    zygote = await parent(sibling)
    assert await call(worker, "exits:leaves", way=way) == way
    await end(worker)
    assert await call(sibling, "programs:echo", nonce="a") == "a"
    assert await parent(await spawner.spawn()) == await parent(sibling) == zygote


@pytest.mark.parametrize("way", _ENDS)
async def test_however_a_program_ends_its_sibling_goes_on(start: Start, way: str) -> None:
    """Nothing but the exit follows in the child, whatever fails on the way to it."""
    spawner = start()
    worker, sibling = await spawner.spawn(), await spawner.spawn()
    zygote = await parent(sibling)
    await call(worker, "exits:ends", way=way)
    await end(worker)
    assert await call(sibling, "programs:echo", nonce="a") == "a"
    assert await parent(await spawner.spawn()) == await parent(sibling) == zygote


@pytest.mark.parametrize(
    "failing",
    ["fork EAGAIN", "fork ENOMEM", "pidfd_open EMFILE", "pidfd_open ENOMEM"],
)
async def test_a_start_that_the_system_refuses(start: Start, tmp_path: Path, failing: str) -> None:
    """Only this start fails, at once and with the system's reason.

    The workers go on, and the next start succeeds.
    """
    gate = tmp_path / "gate"
    spawner = start(("tests.support.failing_system",), FAILING=failing, FAILING_WHILE=str(gate))
    worker = await spawner.spawn()
    zygote = await parent(worker)
    gate.touch()
    for _ in range(3):
        with pytest.raises(SpawnFailed, match=r"errno \d+"):
            await spawner.spawn()
    assert await call(worker, "programs:echo", nonce="a") == "a"
    gate.unlink()
    assert await parent(await spawner.spawn()) == zygote
    await wait_until_async(lambda: _async(_count(zygote) == 2), "no other process is left")


@pytest.mark.parametrize(
    "failing",
    ["send_fds ENOBUFS", "send_fds ETOOMANYREFS", "recv_fds ENOMEM", "waitid EINTR", "read_text EMFILE"],
)
async def test_what_the_system_refuses_for_a_while_is_tried_again(start: Start, tmp_path: Path, failing: str) -> None:
    """Starts and deaths are told late, and none is lost."""
    gate = tmp_path / "gate"
    spawner = start(("tests.support.failing_system",), FAILING=failing, FAILING_WHILE=str(gate))
    worker, victim = await spawner.spawn(), await spawner.spawn()
    zygote = await parent(worker)
    gate.touch()
    starting = asyncio.ensure_future(spawner.spawn())
    victim.kill(ExitCause.CRASH)
    assert await call(worker, "programs:echo", nonce="a") == "a"
    await asyncio.wait({starting}, timeout=0.3)
    gate.unlink()
    assert (await victim.exited).cause is ExitCause.CRASH
    assert await parent(await starting) == await parent(worker) == zygote


async def test_a_zygote_out_of_descriptors(start: Start) -> None:
    """The kernel drops the files of a request; that is one failed start."""
    spawner = start()
    worker = await spawner.spawn()
    zygote = await parent(worker)
    before = psutil.Process(zygote).rlimit(psutil.RLIMIT_NOFILE)
    psutil.Process(zygote).rlimit(psutil.RLIMIT_NOFILE, (3, before[1]))
    with pytest.raises(SpawnFailed, match="Too many open files"):
        await spawner.spawn()
    assert await call(worker, "programs:echo", nonce="a") == "a"
    psutil.Process(zygote).rlimit(psutil.RLIMIT_NOFILE, before)
    assert await parent(await spawner.spawn()) == zygote


async def test_a_worker_takes_its_own_helpers_along(start: Start) -> None:
    """A helper that has left its worker's session lives as long as that worker, whoever else dies."""
    spawner = start()
    workers = [await spawner.spawn() for _ in range(3)]
    helpers = [await call(worker, "exits:daemon", "number", "integer", seconds=600) for worker in workers]
    for dead, worker in enumerate(workers):
        assert [is_alive(helper) for helper in helpers] == [False] * dead + [True] * (3 - dead)
        worker.kill(ExitCause.CRASH)
        await worker.exited
        await wait_until_async(lambda: _async(not is_alive(helpers[dead])), "its helper is dead")  # noqa: B023


@pytest.mark.parametrize("who", ["zygote", "reaper"])
@pytest.mark.parametrize("is_stopped", [False, True])
async def test_helpers_do_not_outlive_the_zygote(start: Start, who: str, is_stopped: bool) -> None:
    """If the zygote or its parent is killed, the other kills all processes; even if the zygote was stopped."""
    spawner = start()
    worker = await spawner.spawn()
    helper = await call(worker, "exits:daemon", "number", "integer", seconds=600)
    zygote = await parent(worker)
    reaper = psutil.Process(zygote).ppid()
    assert reaper != os.getpid()
    if is_stopped:
        os.kill(zygote, signal.SIGSTOP)
    os.kill({"zygote": zygote, "reaper": reaper}[who], signal.SIGKILL)
    gone = (helper, worker.pid, zygote, reaper)
    await wait_until_async(lambda: _async(not any(map(is_alive, gone))), "all are dead")
    assert (await worker.exited).is_ours
    assert await call(await spawner.spawn(), "programs:echo", nonce="a") == "a"


async def _async(value: bool) -> bool:
    return value


def _count(pid: int) -> int:
    return len(psutil.Process(pid).children(recursive=True))
