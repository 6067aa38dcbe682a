"""The agent of one service on one node: starts its zygotes and hands its workers their connections.

It is in no call's path, unless the connections are encrypted: a worker has the service's connections themselves as its
socket and its output. What ends the agent ends its zygotes, and with them the workers.
"""

import asyncio
import hmac
import os
import socket
import subprocess
import threading
import zipfile
from pathlib import Path

import msgspec

from poolshift.node.connection import Connection
from poolshift.node.messages import Begin, Hello, Ran, RunModule
from poolshift.node.tls import tls_of
from poolshift.node.unpacked import Unpacked, command, environment, folder
from poolshift.node.zygote_session import ZygoteSession
from poolshift.worker import linux
from poolshift.worker.framing import MALFORMED, FrameError

HELLO_TIMEOUT_S = 5.0
"""The longest time that a connection may take to say what it is for."""
MAX_HELLO_BYTES = 4096
ORDER_TIMEOUT_S = 120.0
"""From then to the whole of the first order, with all of the code."""
PARENT_INTERVAL_S = 1.0
"""Time between two looks if the node's own process, the parent, lives."""
_BACKLOG = 1024
_PAUSE_S = 0.1

_encode = msgspec.json.encode
_hello_decoder = msgspec.json.Decoder(Hello)


class Agent:
    """Listens on one address of the node, for whoever has the token."""

    def __init__(self, token: str, host: str) -> None:
        """Listens on `host`, at a free port, with TLS if Ray's variables ask for it.

        Raises:
            OSError: that address cannot be listened on, or a certificate cannot be read.
            ValueError: a variable of a certificate is missing.
        """
        linux.set_dumpable(False)  # it has the token, and the connections of all workers
        self._tls = tls_of(os.environ)
        self._token = token
        self._listener = socket.create_server((host, 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._parent = os.getppid()
        self._unpacked = Unpacked()
        self._sessions: dict[str, ZygoteSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="poolshift agent", daemon=True)

    def __repr__(self) -> str:
        return f"<Agent port={self.port} zygotes={len(self._sessions)}>"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    def start(self) -> None:
        """Serves from now on, in a thread that lives as long as this process."""
        self._thread.start()

    def wait(self) -> None:
        """Waits for the end of the thread."""
        self._thread.join()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        watch = loop.create_task(self._watch_parent())
        self._tasks.add(watch)
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(_PAUSE_S)  # no descriptor is left, or the client has gone: the workers go on
                continue
            task = loop.create_task(self._welcome(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _watch_parent(self) -> None:
        """Ends the process, and with it all workers, once its parent is dead: Ray leaves it if the head is gone too."""
        while os.getppid() == self._parent:  # noqa: ASYNC110 - nothing else tells of it
            await asyncio.sleep(PARENT_INTERVAL_S)
        os._exit(1)

    async def _welcome(self, accepted: socket.socket) -> None:
        """Serves one connection to its end, or hands it on to its worker's zygote."""
        connection = None
        is_handed_on = False
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                accepted = await asyncio.wait_for(self._tls.from_service(accepted), HELLO_TIMEOUT_S)
            connection = Connection(accepted)
            payload = await asyncio.wait_for(connection.receive(MAX_HELLO_BYTES), HELLO_TIMEOUT_S)
            hello = _hello_decoder.decode(payload)
            if not hmac.compare_digest(hello.token.encode(), self._token.encode()):
                return
            if hello.purpose == "zygote":
                await self._serve_zygote(connection)
            elif hello.purpose == "run":
                await self._run_module(connection)
            else:
                session = self._sessions.get(hello.zygote)
                if session is not None:
                    session.take_end(hello.generation, hello.purpose, connection)
                    is_handed_on = True
        except (OSError, FrameError, asyncio.TimeoutError, *MALFORMED):
            pass  # gone, or none of ours
        finally:
            if not is_handed_on:
                (connection or accepted).close()

    async def _serve_zygote(self, connection: Connection) -> None:
        begin = msgspec.json.decode(await asyncio.wait_for(connection.receive(), ORDER_TIMEOUT_S), type=Begin)
        session = self._sessions[begin.zygote] = ZygoteSession(connection, begin, self._unpacked)
        try:
            await session.serve()
        finally:
            del self._sessions[begin.zygote]

    async def _run_module(self, connection: Connection) -> None:
        order = msgspec.json.decode(await asyncio.wait_for(connection.receive(), ORDER_TIMEOUT_S), type=RunModule)
        ran = await asyncio.get_running_loop().run_in_executor(None, self._run, order)
        connection.send(_encode(ran))
        await connection.flush()

    def _run(self, order: RunModule) -> Ran:
        python = order.code.python or "of Ray"
        try:
            with self._unpacked.using(order.code) as root:
                return _run_to_end(order, root)
        except subprocess.TimeoutExpired:
            return Ran(None, "", f"no answer within {order.timeout_s:g} s", python)
        except (OSError, zipfile.BadZipFile) as error:
            return Ran(1, "", str(error), python)


def _run_to_end(order: RunModule, root: Path) -> Ran:
    line = command(order.code, order.module, order.arguments)
    done = subprocess.run(  # noqa: S603
        line,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=order.timeout_s,
        env=environment(order.code, root),
        cwd=folder(root),
    )
    return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), line[0])
