"""The agent of a node without Ray: a process on this machine, whose workers the service has through TCP alone."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from common import own_process
from common.background import Background, Health
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, SpawnFailed, WorkerCrashed
from pools.process import zygote_link
from pools.process.exits import ExitCause
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from pools.ray.code import pack
from pools.ray.node_host import NodeHost
from poolshift.node import zygote_session
from poolshift.node.messages import Code
from poolshift.node.tls import tls_of
from poolshift.worker.definitions import Definition, Field, Signature
from poolshift.worker.framing import frame
from tests.ray.agents import AGENT, issue_certificates, up
from tests.support.service import ROOT, is_alive
from tests.support.waiting import wait_until, wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

CODE = ProgramCode(allowed_modules=("tests.support.programs",), own_root=ROOT)


class Node:
    """The service's side of the agent, and what it was told of it."""

    def __init__(self, port: int, certificates: dict[str, str]) -> None:
        self.lost = 0
        self.background = Background()
        self.code: Code = pack(CODE, {"PYTHONPATH": str(ROOT)})
        self.host = NodeHost(up(port), lambda: self.code, self._count, tls_of(certificates))
        self.spawner = Spawner(CODE, {}, background=self.background, host=self.host, health=Health())

    def _count(self) -> None:
        self.lost += 1


@pytest.fixture(params=["plain", "tls"])
def certificates(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """All that a node does it does on encrypted connections, too."""
    return issue_certificates(tmp_path) if request.param == "tls" else {}


@pytest.fixture
async def node(agent: tuple["subprocess.Popen[str]", int], certificates: dict[str, str]) -> AsyncIterator[Node]:
    """The service's side, closed at the end with everything that it started."""
    made = Node(agent[1], certificates)
    yield made
    await asyncio.wait_for(made.spawner.aclose(), 20)
    await made.background.aclose()


async def begin(
    worker: WorkerProcess, function: str, seconds: float = 30.0, **inputs: Any
) -> "asyncio.Future[Result | Exception]":
    """Sends a call of a function of the tests' programs."""
    fields = tuple(Field(name, "integer" if isinstance(value, int) else "string") for name, value in inputs.items())
    definition = Definition("python", Signature(fields, (Field("result", "object"),)), f"tests.support.{function}")
    ended: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
    deadline = asyncio.get_running_loop().time() + seconds
    program = Program(function, function, definition)
    worker.run(Call("e-1", program, msgspec.json.encode(inputs), deadline), ended.set_result)
    return ended


async def whoami(worker: WorkerProcess) -> dict[str, int]:
    """The output of a call that tells its process."""
    outcome = await asyncio.wait_for(await begin(worker, "programs:whoami"), 30)
    assert isinstance(outcome, Result), outcome
    who: dict[str, int] = msgspec.json.decode(outcome.outputs)["result"]
    return who


async def test_a_worker_of_a_node_runs_calls(node: Node) -> None:
    """A call tells the worker's own process; the figures are those of that process."""
    worker = await node.spawner.spawn()
    assert (await whoami(worker))["pid"] == worker.pid
    assert worker.node == "node-1"
    (stats,) = await measured(node, worker)
    assert stats is not None
    assert stats.rss_bytes > 1 << 20
    assert stats.open_fds


async def test_memory_before_a_call_is_measured_for_it(node: Node) -> None:
    """The last figures may be older than the last call, which has made the worker larger."""
    worker = await node.spawner.spawn()
    (small,) = await measured(node, worker)
    assert small is not None
    await asyncio.wait_for(await begin(worker, "programs:keeps_memory", megabytes=100), 30)
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    worker.ask_memory(told.set_result)
    assert await asyncio.wait_for(told, 30) > small.rss_bytes + 90 * 2**20


async def measured(node: Node, worker: WorkerProcess) -> list[Any]:
    """The figures of a worker, once the agent has measured since it began."""
    async with asyncio.timeout(10):
        while True:
            for zygote in node.host.zygotes:
                await zygote.refresh(5.0)
            figures = await node.spawner.measure([worker])
            if figures[0] is not None:
                return figures
            await asyncio.sleep(0.05)


async def test_a_kill_ends_the_call_and_the_next_worker_is_there(node: Node) -> None:
    """As at a deadline; nothing of the first is left."""
    worker = await node.spawner.spawn()
    call = await begin(worker, "programs:spins")
    worker.kill(ExitCause.TIMEOUT)
    assert isinstance(await asyncio.wait_for(call, 30), ExecutionError)
    assert not is_alive(worker.pid)
    assert (await whoami(await node.spawner.spawn()))["pid"] != worker.pid


async def test_the_last_reply_of_a_dying_worker_counts(node: Node) -> None:
    """A worker that crashes amid a call says how."""
    worker = await node.spawner.spawn()
    outcome = await asyncio.wait_for(await begin(worker, "programs:segfaults"), 30)
    assert isinstance(outcome, WorkerCrashed)
    assert outcome.exit_cause == "signal SIGSEGV"


async def test_an_agent_that_is_killed_takes_its_workers_along(
    agent: tuple["subprocess.Popen[str]", int], node: Node
) -> None:
    """The call of each ends with a lost node, and no process is left."""
    worker = await node.spawner.spawn()
    who = await whoami(worker)
    call = await begin(worker, "programs:spins")
    agent[0].kill()
    outcome = await asyncio.wait_for(call, 30)
    assert isinstance(outcome, WorkerCrashed)
    assert outcome.exit_cause == "node lost"
    assert node.lost == 1
    wait_until(lambda: not is_alive(who["pid"]) and not is_alive(who["ppid"]), "no process is left")
    with pytest.raises(SpawnFailed):
        await node.spawner.spawn()


async def test_a_service_that_has_gone_leaves_no_worker(node: Node) -> None:
    """The end of its connection is enough."""
    worker = await node.spawner.spawn()
    await whoami(worker)
    for zygote in list(node.host.zygotes):
        zygote.abandon()
    await wait_until_async(lambda: _is_dead(worker.pid), "the worker is dead")  # the loop carries the end over TLS


async def test_a_service_that_is_silent_has_gone(
    agent: tuple["subprocess.Popen[str]", int], node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition leaves the connection open: the workers end all the same, within the agent's patience."""
    monkeypatch.setattr(zygote_link, "MAX_UNANSWERED", 1000)
    worker = await node.spawner.spawn()
    await whoami(worker)
    for zygote in list(node.host.zygotes):
        monkeypatch.setattr(zygote, "send", lambda *_: None)
        zygote._stop_beating()
    began = time.monotonic()
    await wait_until_async(lambda: _is_dead(worker.pid), "the worker is dead")
    assert time.monotonic() - began < zygote_session.SILENCE_S + 5


async def _is_dead(pid: int) -> bool:
    return not is_alive(pid)


async def test_a_zygote_that_dies_is_replaced(node: Node) -> None:
    """The workers die with it; the node is not lost."""
    worker = await node.spawner.spawn()
    who = await whoami(worker)
    call = await begin(worker, "programs:spins")
    os.kill(who["ppid"], signal.SIGKILL)
    outcome = await asyncio.wait_for(call, 30)
    assert isinstance(outcome, WorkerCrashed)
    assert outcome.exit_cause == "killed with the zygote"
    assert node.lost == 0
    await whoami(await node.spawner.spawn())


async def test_an_agent_without_descriptors_goes_on(agent: tuple["subprocess.Popen[str]", int], node: Node) -> None:
    """Connections that it cannot take wait; its workers live, and the next one starts once there is room."""
    worker = await node.spawner.spawn()
    before = resource.prlimit(agent[0].pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent[0].pid, resource.RLIMIT_NOFILE, (4, before[1]))
    with socket.create_connection(("127.0.0.1", agent[1]), timeout=30) as waiting:
        who = await whoami(worker)
        assert who["pid"] == worker.pid
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        resource.prlimit(agent[0].pid, resource.RLIMIT_NOFILE, before)
        waiting.settimeout(30)
        waiting.sendall(frame(b'{"type":"hello","token":"another","purpose":"zygote"}'))
        assert waiting.recv(1) == b""
    assert (await whoami(await node.spawner.spawn()))["ppid"] == who["ppid"]


def test_an_agent_ends_with_its_node() -> None:
    """The node's own process is its parent; Ray leaves the agent behind if the head is gone as well."""
    starts = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {AGENT!r} + 'pass']).wait()"
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        (agent,) = psutil.Process(parent.pid).children()
        parent.kill()
        wait_until(lambda: not is_alive(agent.pid), "the agent is dead")


async def test_a_connection_that_no_worker_takes_is_closed(node: Node) -> None:
    """The service may give a worker up between its connections and the order to fork it."""
    await node.spawner.spawn()
    (zygote,) = node.host.zygotes
    sock = await node.host.connect("channel", zygote.name, 1000)
    with sock:
        async with asyncio.timeout(30):
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""


async def test_zygotes_that_have_ended_are_forgotten(node: Node) -> None:
    """Each reload starts another."""
    for _ in range(3):
        worker = await node.spawner.spawn()
        await node.spawner.renew()
        worker.kill(ExitCause.SHUTDOWN)
        await asyncio.wait_for(worker.exited, 30)
    await wait_until_async(lambda: _have_ended(node, but=1), "the zygotes without workers have ended")
    await node.spawner.renew()
    assert len(node.host.zygotes) == 2


async def _have_ended(node: Node, but: int) -> bool:
    return sum(not zygote.has_ended for zygote in node.host.zygotes) == but


async def test_who_has_no_token_gets_nothing(agent: tuple["subprocess.Popen[str]", int]) -> None:
    """The connection is closed without a word, as it is after garbage."""
    for opening in (frame(b'{"type":"hello","token":"another","purpose":"zygote"}'), b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", agent[1]), timeout=30) as sock:
            sock.sendall(opening)
            try:
                assert sock.recv(1) == b""
            except ConnectionResetError:
                pass


async def test_an_interpreter_that_a_node_lacks_is_one_line(node: Node) -> None:
    """The line names the node and the interpreter."""
    node.code = Code(node.code.archive, node.code.environment, "/opt/no/such/python")
    with pytest.raises(SpawnFailed, match="node node-1: the interpreter /opt/no/such/python is not there"):
        await node.spawner.spawn()


async def test_what_the_python_of_a_node_is(node: Node) -> None:
    """As a local interpreter tells it."""
    description = await node.spawner.describe()
    assert description.python == ".".join(map(str, sys.version_info[:3]))
    assert own_process.ROOT == ROOT
