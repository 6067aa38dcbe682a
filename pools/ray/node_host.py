"""A node with an agent, as a host of zygotes."""

import asyncio
import itertools
import socket
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pools.errors import SpawnFailed
from pools.process.host import Imports
from pools.process.interpreter import DESCRIBE_TIMEOUT_S, read_description
from pools.ray.driver_messages import Up
from pools.ray.node_zygote import NodeZygote
from poolshift.node.connection import Connection
from poolshift.node.messages import Begin, Code, Hello, Purpose, Ran, RunModule
from poolshift.node.tls import Tls
from poolshift.worker.describe import Description
from poolshift.worker.framing import MALFORMED, FrameError, frame

CONNECT_TIMEOUT_S: Final = 5.0
_USER_TIMEOUT_MS: Final = 10_000
"""Bytes that the other end has not acknowledged for so long break the connection."""


class NodeHost:
    """Starts zygotes through one agent (see `pools.process.host.ZygoteHost`)."""

    def __init__(self, up: Up, code: Callable[[], Code], on_lost: Callable[[], None], tls: Tls | None = None) -> None:
        """`code` returns what the next process gets; with `tls` all connections to the agent are encrypted.

        `on_lost` is called when a connection to the agent breaks, or if none can be made while there is none.
        """
        self.node = up.node
        self._up = up
        self._code = code
        self._on_lost = on_lost
        self._tls = tls
        self._names = (f"{uuid.uuid4().hex[:8]}-{number}" for number in itertools.count(1))
        self.zygotes: set[NodeZygote] = set()
        """The zygotes that have started, except those that had ended when the last one started."""

    def __repr__(self) -> str:
        return f"<NodeHost {self.node} {self._up.host}:{self._up.port}>"

    async def start_zygote(self, imports: Imports) -> NodeZygote:
        name = next(self._names)
        begin = Begin(zygote=name, arguments=imports.arguments(), code=self._code())
        try:
            sock = await self.connect("zygote", name, 0)
        except OSError:
            # With another zygote, its connection tells if the node is lost; without one nothing else does.
            if all(other.has_ended for other in self.zygotes):
                self._on_lost()
            raise
        zygote = NodeZygote(name, self.node, sock, self.connect, self._on_lost)
        zygote.begin(begin)
        await zygote.started()
        self.zygotes = {zygote, *(other for other in self.zygotes if not other.has_ended)}
        return zygote

    async def check_modules(self, modules: Sequence[str], user: tuple[int, int] | None) -> None:
        """Tries nothing: only a zygote has the code there."""

    async def describe(self) -> Description:
        ran = await self.run("poolshift.worker.describe", [], DESCRIBE_TIMEOUT_S)
        who = f"{ran.python} of node {self.node}"
        if ran.status is None:
            raise SpawnFailed(f"the interpreter {who} did not answer within {DESCRIBE_TIMEOUT_S:g} s")
        return read_description(who, ran.status, ran.output.encode(), ran.faults.encode())

    async def run(self, module: str, arguments: list[str], timeout_s: float) -> Ran:
        """Runs a module of `poolshift.worker` on the node to its end.

        Raises:
            SpawnFailed: the agent gives no answer.
        """
        order = RunModule(module, arguments, self._code(), timeout_s)
        try:
            sock = await self.connect("run", "", 0)
            connection = Connection(sock)
            try:
                async with asyncio.timeout(timeout_s + CONNECT_TIMEOUT_S):
                    connection.send(msgspec.json.encode(order))
                    return msgspec.json.decode(await connection.receive(), type=Ran)
            finally:
                connection.close()
        except (OSError, FrameError, *MALFORMED) as error:
            raise SpawnFailed(f"node {self.node} gives no answer: {error}") from error

    async def connect(self, purpose: Purpose, zygote: str, generation: int) -> socket.socket:
        """Opens a connection to the agent and says what for.

        Raises:
            OSError: the agent cannot be reached, or its certificate is not one of Ray's authority.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6 if ":" in self._up.host else socket.AF_INET)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
            hello = Hello(self._up.token, purpose, zygote, generation)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(sock, (self._up.host, self._up.port))
                if self._tls is not None:
                    sock = await self._tls.to_agent(sock, self._up.host)
                await loop.sock_sendall(sock, frame(msgspec.json.encode(hello)))
        except BaseException:
            sock.close()
            raise
        return sock

    async def answers(self) -> bool:
        """Tells if the agent can be reached."""
        try:
            (await self.connect("run", "", 0)).close()
        except OSError:
            return False
        return True
