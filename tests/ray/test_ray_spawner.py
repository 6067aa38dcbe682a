"""A pool's workers on several agents, without Ray: which agent gets the next worker, and what a failure is called."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.background import Background
from pools.errors import NoPreviousCode, SpawnFailed
from pools.process.program_code import ProgramCode
from pools.ray import packed_code
from pools.ray import spawner as ray_spawner
from pools.ray.code import pack
from pools.ray.driver_messages import Event, Fault, Gone, Plan
from pools.ray.spawner import RaySpawner
from poolshift.node.messages import Code
from tests.ray.agents import up
from tests.support.service import ROOT, free_port
from tests.support.waiting import wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

NOBODY = "127.0.0.1:1"


PLAN = Plan(address=NOBODY, namespace="test", slots=[2, 2], cpus_per_worker=1, code=str(ROOT), requirements=[])
CODE = ProgramCode(allowed_modules=("tests.support.programs",), own_root=ROOT)


@pytest.fixture
async def spawner() -> AsyncIterator[RaySpawner]:
    """A pool's spawner, whose driver finds no cluster."""
    background = Background()
    made = RaySpawner(CODE, {"PYTHONPATH": str(ROOT)}, PLAN, inherited={}, background=background)
    await made._packed.ensure()
    yield made
    await asyncio.wait_for(made.aclose(), 30)
    await background.aclose()


async def test_a_node_that_starts_no_worker_keeps_no_other_idle(
    spawner: RaySpawner, agent: tuple["subprocess.Popen[str]", int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that hangs up has the most room for ever: it rests after it has failed."""
    monkeypatch.setattr(ray_spawner, "REST_S", 60.0)  # longer than the others' starts take on a busy machine
    monkeypatch.setattr(ray_spawner, "MAX_REST_S", 60.0)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as hanging_up:
        spawner._take(up(hanging_up.sockets[0].getsockname()[1], "hangs up"))
        spawner._take(up(agent[1], "serves"))
        assert spawner.places == 4
        with pytest.raises(SpawnFailed):
            await spawner.spawn()
        assert {(await spawner.spawn()).node for _ in range(2)} == {"node-1"}
        with pytest.raises(SpawnFailed):
            await spawner.spawn()  # the one that serves is full


async def test_a_pool_says_why_none_of_its_nodes_starts_workers(
    spawner: RaySpawner, agent: tuple["subprocess.Popen[str]", int]
) -> None:
    """As Ray's faults are: the service refuses to start with that line."""
    spawner._packed.for_nodes().python = "/opt/no/such/python"
    spawner._take(up(agent[1]))
    assert spawner.start_failure is None
    with pytest.raises(SpawnFailed):
        await spawner.spawn()
    assert spawner.start_failure == "node node-1: the interpreter /opt/no/such/python is not there"


async def test_the_reason_of_a_driver_outlives_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that says what keeps it from the cluster ends: that it has ended is no better reason."""
    reasons: list[str | None] = []

    async def events(*_: object) -> AsyncGenerator[Event, None]:
        reasons.append(made.start_failure)
        yield Fault("no answer")

    monkeypatch.setattr(ray_spawner, "events_of_driver", events)
    background = Background()
    made = RaySpawner(CODE, {}, PLAN, inherited={}, background=background)
    await wait_until_async(_has(reasons, 2), "the driver is started again")
    assert reasons == [None, "WORKERS=ray: no answer"]
    await asyncio.wait_for(made.aclose(), 30)
    await background.aclose()


async def test_nodes_of_a_driver_that_has_ended(
    spawner: RaySpawner, agent: tuple["subprocess.Popen[str]", int]
) -> None:
    """Their workers run on; once the connection breaks nobody looks for them, since nobody would tell of their end."""
    spawner._take(up(agent[1]))
    worker = await spawner.spawn()
    spawner._forget_driver()
    assert spawner.places == 2
    agent[0].kill()
    await asyncio.wait_for(worker.exited, 30)
    assert (spawner.places, spawner._nodes) == (0, {})


async def test_an_agent_that_dies_between_two_zygotes(spawner: RaySpawner) -> None:
    """No connection is left that could break: the one that cannot be made tells that the node is lost."""
    spawner._take(up(free_port(), "watched"))
    with pytest.raises(SpawnFailed):
        await spawner.spawn()
    assert (spawner.places, list(spawner._nodes)) == (0, ["watched"])  # the driver would tell of its end
    assert spawner.start_failure == "WORKERS=ray: no node is left, the last one node-1 cannot be reached"
    spawner._take(up(free_port(), "unwatched"))
    spawner._forget_driver()
    with pytest.raises(SpawnFailed):
        await spawner.spawn()
    assert (spawner.places, spawner._nodes) == (0, {})


async def test_a_spawner_that_is_closed_takes_no_node(spawner: RaySpawner) -> None:
    """The driver may tell of an agent while the last workers end."""
    await spawner.aclose()
    for event in (up(free_port()), Fault("late"), Gone("a", "late")):
        spawner._take(event)
    assert (spawner.places, spawner._nodes, spawner.start_failure) == (0, {}, None)


async def test_a_folder_that_is_followed_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change of its content is news; a file with a new time and the same content is none."""
    monkeypatch.setattr(ray_spawner, "LOOK_INTERVAL_S", 0.02)
    folder, beside = tmp_path / "programs", tmp_path / "beside.py"
    folder.mkdir()
    file = folder / "mine.py"
    file.write_text("one")
    code = ProgramCode(allowed_modules=("examples",), own_root=ROOT, programs_dir=folder)
    background, told, packs = Background(), [], []
    made = RaySpawner(code, {}, PLAN, inherited={}, background=background)

    def count_and_pack(code: ProgramCode, environment: Mapping[str, str]) -> Code:
        packed = pack(code, environment)
        packs.append(made)  # only now: what changes later is in another
        return packed

    await made._packed.ensure()
    monkeypatch.setattr(packed_code, "pack", count_and_pack)
    made.watch_code(lambda: told.append(file.read_text()))
    await wait_until_async(_has(packs, 1), "the folder has been looked at")
    os.utime(file, (1, 1))
    await wait_until_async(_has(packs, 2), "it has been packed to see if its content is another")
    for content in ("two", "three"):
        beside.write_text(content)
        beside.replace(file)
        await wait_until_async(lambda: _says(told, content), "the change is told")  # noqa: B023 - awaited here
    assert (told, len(packs)) == (["two", "three"], 4)
    await asyncio.wait_for(made.aclose(), 30)
    await background.aclose()


def _has(seen: list[Any], count: int) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return len(seen) == count

    return has


async def _says(told: list[str], content: str) -> bool:
    return told[-1:] == [content]


async def test_a_node_gets_the_code_of_before_whatever_is_on_disk(
    agent: tuple["subprocess.Popen[str]", int], tmp_path: Path
) -> None:
    """The packed code is kept; another reload of the same code forgets nothing, and a second time goes forward."""
    file = tmp_path / "programs" / "mine.py"
    file.parent.mkdir()
    code = ProgramCode(allowed_modules=("mine",), own_root=ROOT, programs_dir=file.parent)
    background = Background()
    made = RaySpawner(code, {}, PLAN, inherited={}, background=background)

    async def renewed(source: str) -> str:
        file.write_text(source)
        await made.renew(is_forced=True)
        return (await made.spawn()).revision

    file.write_text("one = 1\n")
    await made._packed.ensure()
    made._take(up(agent[1]))
    one = (await made.spawn()).revision
    with pytest.raises(NoPreviousCode):
        await made.bring_back()
    two = await renewed("two = 2\n")
    assert await renewed("two = 2\n") == two != one
    file.unlink()
    for expected, kept in ((one, two), (two, one)):
        await made.bring_back()
        assert ((await made.spawn()).revision, made.previous_revision) == (expected, kept)
    await asyncio.wait_for(made.aclose(), 30)
    await background.aclose()


async def test_certificates_that_are_missing_are_a_fault(agent: tuple["subprocess.Popen[str]", int]) -> None:
    """No agent is taken without encryption where Ray's own connections have it."""
    background = Background()
    made = RaySpawner(CODE, {}, PLAN, inherited={"RAY_USE_TLS": "1"}, background=background)
    made._take(up(agent[1]))
    assert made.places == 0
    assert made.start_failure is not None
    assert "RAY_USE_TLS needs RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY, RAY_TLS_CA_CERT" in made.start_failure
    await asyncio.wait_for(made.aclose(), 30)
    await background.aclose()
