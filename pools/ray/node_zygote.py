"""A zygote on a node: the service's connection to the agent there, and the hold on each worker."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from pools.errors import SpawnFailed
from pools.process.channel import Channel
from pools.process.ends import WorkerEnds
from pools.process.stats import ProcessStats
from poolshift.node import messages
from poolshift.node.messages import Lost, Measure, Measured, Purpose, Refused, Signal, Started
from poolshift.worker.framing import MALFORMED, frame
from poolshift.worker.notices import Order

HEARTBEAT_S: Final = 2.0
"""Time between two signs of life to the agent, beside the pings: the agent takes a service that is silent for gone."""
START_TIMEOUT_S: Final = 15.0
"""For the agent to start a zygote's process, which has the code unpacked before."""
FRESH_S: Final = 0.2
"""Figures younger than this are not asked for again."""

_encode = msgspec.json.encode
_notice_decoder: msgspec.json.Decoder[messages.Notice] = msgspec.json.Decoder(messages.Notice)

Connect = Callable[[Purpose, str, int], Awaitable[socket.socket]]
"""Opens a connection to the agent, for a worker of a zygote."""


class NodeZygote:
    """The way to a zygote on a node (see `pools.process.zygote_link.ZygoteEnd`)."""

    last_words_s = 1.0
    """A worker's bytes have a connection of their own, and may be slower than the report of its death."""

    def __init__(
        self, name: str, node: str, sock: socket.socket, connect: Connect, on_lost: Callable[[], None]
    ) -> None:
        """Takes over `sock`. `on_lost` is called if the connection ends while the zygote may live."""
        self.name = name
        self.node = node
        self.pid = 0
        self.loss = "node lost"
        self._connect = connect
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._on_packet: Callable[[bytes, int], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._unheard: list[bytes] = []
        """Notices that came before anybody listened."""
        self._started: asyncio.Future[int] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._is_hung_up = False
        self._is_given_up = False
        self._figures: dict[int, ProcessStats] = {}
        self._measured_at = 0.0
        self._measured = asyncio.Event()
        self._when_measured: list[Callable[[], None]] = []
        self._oom_kills = 0
        self._heartbeat: asyncio.TimerHandle | None = None
        fd = sock.detach()
        self._channel = Channel(fd, fd, self._take, self._channel_ended)

    def __repr__(self) -> str:
        return f"<NodeZygote node={self.node} pid={self.pid} hung_up={self._is_hung_up}>"

    @property
    def has_ended(self) -> bool:
        """True once the connection is closed."""
        return self._ended.is_set()

    async def started(self) -> None:
        """Waits until the zygote's process runs.

        Raises:
            SpawnFailed: the node cannot run it, and why.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self.pid = await self._started
        except TimeoutError:
            self.abandon()
            raise SpawnFailed(f"node {self.node} started no zygote within {START_TIMEOUT_S:g} s") from None
        except BaseException:
            self.abandon()
            raise

    def begin(self, order: messages.Begin) -> None:
        """Sends what the zygote is to be."""
        self._channel.send(frame(_encode(order)))
        self._beat()

    # --- ZygoteEnd

    def listen(self, on_packet: Callable[[bytes, int], None], on_end: Callable[[], None]) -> None:
        self._on_packet, self._on_end = on_packet, on_end
        self._loop.call_soon(self._catch_up)

    async def open_ends(self, generation: int) -> tuple[WorkerEnds, tuple[int, ...]]:
        channel = await self._connect("channel", self.name, generation)
        try:
            output = await self._connect("output", self.name, generation)
        except BaseException:
            channel.close()
            raise
        both = channel.detach()
        return WorkerEnds(both, both, output.detach()), ()

    def send(self, order: Order | Signal | Measure, fds: Sequence[int] = ()) -> None:
        if self._is_hung_up or not self._channel.send(frame(_encode(order))):
            raise BrokenPipeError("the connection to the node is gone")

    def handle(self, generation: int, pid: int, fd: int) -> "NodeHandle":
        return NodeHandle(self, generation)

    def kill_group(self, pid: int) -> None:
        """Does nothing: the agent kills what a zygote leaves."""

    def oom_kills(self) -> int:
        return self._oom_kills

    def send_signal(self, number: signal.Signals) -> None:
        self.signal_worker(0, number)

    def signal_worker(self, generation: int, number: signal.Signals) -> None:
        """Sends a signal to a worker, if the agent can be reached."""
        try:
            self.send(Signal(number, generation))
        except OSError:
            pass  # the workers of a node that is lost end without it

    def hang_up(self) -> None:
        if not self._is_hung_up:
            self._is_hung_up = True
            self._stop_beating()
            self._channel.finish()

    async def is_dead_within(self, seconds: float) -> bool:
        """Waits for the agent to close the connection, which it does when all are dead.

        An agent that does not, twice, is out of reach: its own patience ends what runs there.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            if self._is_given_up:
                self.abandon()
            self._is_given_up = True
            return False
        except asyncio.CancelledError:
            self.abandon()
            raise
        return True

    def abandon(self) -> None:
        """Closes the connection at once."""
        self.hang_up()
        self._channel.close()
        self._ended.set()

    # --- figures

    async def refresh(self, timeout_s: float) -> None:
        """Has the workers measured, unless that has just been done. Without an answer the last figures stay."""
        if self._loop.time() - self._measured_at < FRESH_S:
            return
        self._measured.clear()
        try:
            self.send(Measure())
            async with asyncio.timeout(timeout_s):
                await self._measured.wait()
        except OSError:
            pass  # a TimeoutError too

    def ask_figures(self, listener: Callable[[], None]) -> None:
        """Has the workers measured; calls `listener` when the next figures are there, never if the node is lost."""
        self._when_measured.append(listener)
        with suppress(OSError):
            self.send(Measure())

    def figures(self, generation: int) -> ProcessStats | None:
        """The last figures of a worker."""
        return self._figures.get(generation)

    # --- notices

    def _take(self, payload: bytes | memoryview) -> None:
        try:
            notice = _notice_decoder.decode(payload)
        except MALFORMED:
            self._pass_on(bytes(payload))  # whoever listens knows what to do with garbage
            return
        if isinstance(notice, Measured):
            self._oom_kills = notice.oom_kills
            self._figures = {generation: ProcessStats(*told) for generation, told in notice.figures.items()}
            self._measured_at = self._loop.time()
            self._measured.set()
            listeners, self._when_measured = self._when_measured, []
            for listener in listeners:
                listener()
        elif isinstance(notice, Lost):
            self.loss = "killed with the zygote"
        elif isinstance(notice, Started | Refused):
            self._take_start(notice)
        else:
            self._pass_on(bytes(payload))

    def _take_start(self, notice: Started | Refused) -> None:
        if self._started.done():
            return
        if isinstance(notice, Started):
            self._started.set_result(notice.pid)
        else:
            self._started.set_exception(SpawnFailed(f"node {self.node}: {notice.reason}"))

    def _pass_on(self, payload: bytes) -> None:
        if self._on_packet is None or self._unheard:
            self._unheard.append(payload)
        elif not self._is_hung_up:
            self._on_packet(payload, -1)

    def _catch_up(self) -> None:
        unheard, self._unheard = self._unheard, []
        for payload in unheard:
            self._pass_on(payload)
        if self._ended.is_set():
            self._tell_end()

    def _channel_ended(self, fault: str | None) -> None:
        self._stop_beating()
        self._ended.set()
        if not self._started.done():
            self._started.set_exception(SpawnFailed(f"node {self.node} has closed the connection"))
        self._tell_end()

    def _tell_end(self) -> None:
        if self._is_hung_up:
            return
        if self._on_end is not None:
            if self.loss == "node lost":
                self._on_lost()
            self._on_end()

    # --- signs of life

    def _beat(self) -> None:
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)
        self._channel.send(frame(_encode(Measure())))

    def _stop_beating(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()


class NodeHandle:
    """A hold on a worker of a node (see `pools.process.handle.ProcessHandle`)."""

    fault: str | None = None

    def __init__(self, zygote: NodeZygote, generation: int) -> None:
        self.node: str | None = zygote.node
        self._zygote = zygote
        self._generation = generation

    def __repr__(self) -> str:
        return f"<NodeHandle node={self.node} generation={self._generation}>"

    def send_signal(self, number: signal.Signals) -> None:
        self._zygote.signal_worker(self._generation, number)

    def watch(self, on_death: Callable[[], None]) -> None:
        """Does nothing: the agent reports each death."""

    def stats(self) -> ProcessStats | None:
        return self._zygote.figures(self._generation)

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        """Calls `listener` once the agent has measured the worker: the last figures may be older than its last call."""

        def measured() -> None:
            figures = self._zygote.figures(self._generation)
            listener(0 if figures is None else figures.rss_bytes)

        self._zygote.ask_figures(measured)

    def close(self) -> None:
        """Does nothing: the agent lets go of the process."""
