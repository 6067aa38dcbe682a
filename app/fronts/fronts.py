"""Keeps the front processes, and spreads connections over them."""

import asyncio
import errno
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from app.execute.connections import Limits
from app.execute.exchange import Endpoint
from app.execute.uvicorn_adapter import ServerState, opened, shut
from app.fronts.connections import HomeConnection
from app.fronts.figures import FrontFigures
from app.fronts.gate import Gate, new_gate
from app.fronts.grants import Grants
from app.fronts.handover import Handover, most_at_once
from app.fronts.link import FrontLink
from app.fronts.loans import Loans
from app.fronts.messages import FrontPlan
from common import own_process
from common.background import Background
from common.tasks import TaskOwner

START_TIMEOUT_S: Final = 30.0
"""The longest time that a front may take from its start to its first word."""
ASK_INTERVAL_S: Final = 1.0
TELL_TIMEOUT_S: Final = 0.5
"""The longest wait of a request for what a front has to tell."""
SILENCE_S: Final = 10.0
"""A front that has not said for this long that it serves is killed."""
ACCEPT_AGAIN_S: Final = 0.1
"""The rest of a listening socket, if this process cannot open another file."""

_log = structlog.stdlib.get_logger("poolshift.fronts")

Connect = Callable[[bytes, Callable[[HomeConnection], None]], HomeConnection]
"""Makes the service's own end of a connection, from what was read of it and from what to do when it is idle."""


class _Front:
    """A front that serves."""

    def __init__(self, link: FrontLink, handover: Handover, pid: int) -> None:
        self.link = link
        self.pid = pid
        self.handover = handover

    def __repr__(self) -> str:
        return f"<Front connections={self.link.connections}>"

    def offer(self, connection: socket.socket) -> bool:
        """Hands a connection over, unless that would have to wait."""
        is_taken = self.handover.offer(connection, b"")
        self.link.connections += is_taken
        return is_taken


class Fronts:
    """All fronts of the service. While there is none, the service speaks HTTP itself."""

    def __init__(
        self,
        count: int,
        limits: Limits,
        logs: tuple[str, str],
        *,
        endpoint: Endpoint,
        server: ServerState,
        connect: Connect,
        background: Background,
        queue: tuple[int, float],
        registry: CollectorRegistry,
        open_desk: Callable[[Gate, FrontFigures], tuple[Loans, Grants]],
    ) -> None:
        """Takes `logs` as the format and the level of a front's log, `queue` as the limits of its calls and their wait.

        `open_desk` makes what lends workers and grants calls.
        """
        self._count = count
        self._queue = queue
        self._gate_fd = new_gate(count)
        gate = Gate(self._gate_fd, count)
        gate.close()  # the first epoch is not 0, which no grant may have
        self._figures = FrontFigures(registry, self._pids)
        self.loans, self._grants = open_desk(gate, self._figures)
        self._limits = limits
        self._logs = logs
        self._endpoint = endpoint
        self._server = server
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._most_at_once = most_at_once()
        self._fronts: list[_Front] = []
        self._listeners: Sequence[socket.socket] = ()
        self._is_ending = False
        self._changed = asyncio.Event()
        """Set when a front begins to serve, and when a drain begins."""
        self._tasks = TaskOwner("connections", is_detached=True)
        self._kept = [background.run(f"front_{n + 1}", partial(self._keep_front, n)) for n in range(count)]
        self._kept.append(background.run("loans", self.loans.keep))
        self._background = background

    def __repr__(self) -> str:
        return f"<Fronts serving={len(self._fronts)} of={len(self._kept)}>"

    def accept(self, listeners: Sequence[socket.socket]) -> None:
        """Takes the connections of listening sockets from now on."""
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def wait_for_all(self, timeout_s: float) -> None:
        """Returns when all fronts serve, `timeout_s` are over or a drain begins.

        Fronts that come later get connections then.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self._fronts) < self._count and not self._grants.is_ending:
                    self._changed.clear()
                    await self._changed.wait()

    async def tell(self) -> None:
        """Returns when all that fronts have done so far is counted here; a front that is silent is not waited for."""
        if self._fronts:
            links = [front.link for front in self._fronts if not front.link.is_silent]
            await asyncio.gather(*(link.tell(TELL_TIMEOUT_S) for link in links))

    def begin_drain(self) -> None:
        """Has fronts run no more calls by themselves; the answer to each call that begins closes its connection."""
        self._grants.is_ending = True
        for front in self._fronts:
            front.link.is_draining = True
        self.loans.close_gate()
        self._changed.set()

    async def drain(self) -> None:
        """Returns when the calls that fronts run have ended."""
        await self.loans.end()

    def refuse(self) -> None:
        """Accepts no connection any more, and starts no front again."""
        self._is_ending = True
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        self._listeners = ()

    async def aclose(self) -> None:
        """Ends the fronts, whatever connections they have."""
        self.refuse()
        for task in self._kept:
            await self._background.stop(task)
        await self._tasks.aclose()
        os.close(self._gate_fd)

    # --- connections

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(self._most_at_once):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._rest(listener, error)
                return
            connection.setblocking(False)
            with suppress(OSError):  # the client has gone
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._place(connection)

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """Leaves the connections that wait to the kernel for a moment."""
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            _log.error("cannot accept connections", reason=error.strerror)
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again, listener)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _pids(self) -> list[int]:
        return [front.pid for front in self._fronts]

    def _place(self, connection: socket.socket) -> None:
        """Gives a connection to the front that has the fewest; the service has it if no front can take it."""
        speaking = (front for front in self._fronts if not front.link.is_silent)
        front = min(speaking, key=_connections, default=None)
        if front is None or self._is_ending or not front.offer(connection):
            self._take(connection, b"")

    def _take(self, connection: socket.socket, read: bytes) -> None:
        self._tasks.start(self._open_connection(connection, read))

    async def _open_connection(self, connection: socket.socket, read: bytes) -> None:
        made = self._connect(read, self._leave)
        try:
            await self._loop.connect_accepted_socket(lambda: made, connection)  # type: ignore[type-var]
        except OSError:  # the client has gone
            connection.close()
            return
        if self._is_ending:
            made.shutdown()

    def _leave(self, connection: HomeConnection) -> None:
        """Gives an idle connection to a front."""
        if self._fronts and not self._is_ending:
            detached = connection.detach()
            if detached is not None:
                self._place(detached)

    # --- the processes

    async def _keep_front(self, number: int) -> None:
        """Runs one front until it ends; one that ends with the service is not followed by another."""
        if not self._is_ending:
            await self._run_front(number)
        if self._is_ending:
            await self._loop.create_future()

    async def _run_front(self, number: int) -> None:
        stream, its_stream = socket.socketpair()
        handed, its_handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_stream, its_handed:
            try:
                process = await self._start(number, its_stream, its_handed)
            except BaseException:
                stream.close()
                handed.close()
                raise
        handover = Handover(handed, self._take)
        try:
            await self._follow(number, process, stream, handover)
        finally:
            handover.close()
            await own_process.end(process)

    async def _start(self, number: int, stream: socket.socket, handed: socket.socket) -> Process:
        limit, timeout_s = self._queue
        plan = FrontPlan(
            number=number,
            fronts=self._count,
            gate_fd=self._gate_fd,
            queue_limit=limit // self._count,  # a call that has no place at a front may have one at the service
            checkout_timeout_s=timeout_s,
            stream_fd=stream.fileno(),
            handover_fd=handed.fileno(),
            head_s=self._limits.head_s,
            body_s=self._limits.body_s,
            answer_s=self._limits.answer_s,
            unread_bytes=self._limits.unread_bytes,
            log_format=self._logs[0],
            log_level=self._logs[1],
        )
        return await own_process.start(
            "app.fronts.front",
            msgspec.json.encode(plan).decode(),
            variables={},  # the plan has all that it needs
            pass_fds=[plan.stream_fd, plan.handover_fd, plan.gate_fd],
        )

    async def _follow(self, number: int, process: Process, stream: socket.socket, handover: Handover) -> None:
        """Gives the front connections from its first word on, until it is silent or its stream ends."""
        news = asyncio.Event()
        link = FrontLink(number, self._endpoint, self._server, handover, self.loans, self._grants, news.set)
        link.is_draining = self._grants.is_ending
        await self._loop.create_unix_connection(lambda: link, sock=stream)  # type: ignore[type-var]
        front = _Front(link, handover, process.pid)
        opened(self._server, link)
        if self._is_ending:  # the server has told those to end that it knew by then
            link.shutdown()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await news.wait()
            if not link.is_lost:
                self._fronts.append(front)
                self.loans.joined(link)
                self._figures.starts += 1
                self._changed.set()
            await self._watch(link, news, process)
        finally:
            shut(self._server, link)
            if front in self._fronts:
                self._fronts.remove(front)
            link.close()

    def _retire(self, link: FrontLink) -> None:
        """Has a front end once its connections are closed, each after its next answer; another takes its place."""
        for front in self._fronts:
            if front.link is link:
                self._fronts.remove(front)
                self.loans.dismiss(link)
                link.shutdown()
                _log.info("a front is replaced", pid=front.pid, definitions=len(link.definitions))
                return

    async def _watch(self, link: FrontLink, news: asyncio.Event, process: Process) -> None:
        while not link.is_lost:
            news.clear()
            link.ask()
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_INTERVAL_S):
                    while not link.is_lost:
                        await news.wait()
                        news.clear()
            if link.is_worn:
                self._retire(link)
            if link.heard_at is not None and link.heard_at < self._loop.time() - SILENCE_S:
                _log.error("a front is silent and is killed", pid=process.pid, silence_s=SILENCE_S)
                return
        if not self._is_ending and not link.is_worn:
            status = await process.wait()
            cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            _log.error("a front has ended", pid=process.pid, cause=cause, connections=link.connections)


def _connections(front: _Front) -> int:
    return front.link.connections
