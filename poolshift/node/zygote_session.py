"""One zygote of a service on this node, from the service's connection to the zygote's end."""

import asyncio
import os
import signal
import socket
import subprocess
import zipfile
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from poolshift.node.connection import Connection
from poolshift.node.figures import figures_of
from poolshift.node.messages import Begin, Lost, Measure, Measured, Order, Refused, Signal, Started
from poolshift.node.unpacked import OWN, Unpacked, command, environment, folder
from poolshift.worker import linux
from poolshift.worker.framing import MALFORMED, FrameError
from poolshift.worker.notices import MAX_PACKET_BYTES, Exited, Fork, Forked, NotForked, Ping, Pong, Preloaded

SILENCE_S = 10.0
"""A service that has sent nothing for so long is gone: its workers here end. It pings once a second."""
ENDS_TIMEOUT_S = 5.0
"""From an order to fork to both connections of the worker."""
UNUSED_END_TIMEOUT_S = 30.0
"""A connection of a worker that has not been forked for so long is closed: the service has given the worker up."""
CLOSE_TIMEOUT_S = 2.0
"""From the closed control socket to SIGKILL: the zygote kills its workers and exits in less."""
_POLL_S = 0.02

_encode = msgspec.json.encode
_order_decoder: "msgspec.json.Decoder[Order]" = msgspec.json.Decoder(Order)
_notice_decoder: "msgspec.json.Decoder[Preloaded | Forked | NotForked | Exited | Pong]" = msgspec.json.Decoder(
    Preloaded | Forked | NotForked | Exited | Pong
)


class ZygoteSession:
    """Runs a zygote for as long as the service's connection lives."""

    def __init__(self, connection: Connection, begin: Begin, unpacked: Unpacked) -> None:
        self.name = begin.zygote
        self._connection = connection
        self._begin = begin
        self._unpacked = unpacked
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ends: dict[tuple[int, str], Connection] = {}
        """Connections of workers that are not forked yet."""
        self._ends_came = asyncio.Event()
        self._pids: dict[int, int] = {}
        self._pidfds: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<ZygoteSession {self.name} workers={len(self._pids)}>"

    def take_end(self, generation: int, purpose: str, connection: Connection) -> None:
        """Takes a connection for a worker that is to be forked."""
        self._ends[generation, purpose] = connection
        self._loop.call_later(UNUSED_END_TIMEOUT_S, self._drop_unused, (generation, purpose), connection)
        self._ends_came.set()

    def _drop_unused(self, key: "tuple[int, str]", connection: Connection) -> None:
        if self._ends.get(key) is connection:
            self._ends.pop(key).close()

    async def serve(self) -> None:
        """Starts the zygote and carries out orders, until the service or the zygote is gone; then all is dead."""
        with ExitStack() as stack:
            try:
                unpacked = self._unpacked.using(self._begin.code)
                self._start(await self._loop.run_in_executor(None, stack.enter_context, unpacked))
            except (OSError, zipfile.BadZipFile) as error:
                self._connection.send(_encode(Refused(str(error))))
                await self._connection.flush()
                return
            try:
                await self._take_orders()
            finally:
                await self._end()

    def _start(self, root: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        own = [str(linux.OPEN_FILES_AT_START), str(root / OWN), str(theirs.fileno())]
        with theirs:
            try:
                # By the agent's own thread, which lives as long as the agent: the kernel ends the zygote with it.
                self._process = self._popen([*self._begin.arguments, *own], root, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        self._control = ours
        self._connection.send(_encode(Started(self._process.pid)))
        self._loop.add_reader(ours, self._relay)

    def _popen(self, arguments: "list[str]", root: Path, fd: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603
            command(self._begin.code, "poolshift.worker.zygote", arguments),
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            env=environment(self._begin.code, root),
            cwd=folder(root),
            start_new_session=True,
        )

    # --- orders of the service

    async def _take_orders(self) -> None:
        with suppress(OSError, FrameError, asyncio.TimeoutError, *MALFORMED):
            while payload := await asyncio.wait_for(self._connection.receive(), SILENCE_S):
                self._carry_out(_order_decoder.decode(payload))

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Signal):
            self._signal(order)
        elif isinstance(order, Measure):
            self._measure()
        elif isinstance(order, Ping):
            self._tell_zygote(order)
            self._measure()
        else:
            self._run(self._fork(order))

    def _run(self, work: "Coroutine[Any, Any, None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fork(self, order: Fork) -> None:
        """Hands the connections of a worker on to the zygote, which forks the worker."""
        wanted = [(order.generation, purpose) for purpose in ("channel", "output")]
        end = self._loop.time() + ENDS_TIMEOUT_S
        while not all(key in self._ends for key in wanted):
            self._ends_came.clear()
            try:
                await asyncio.wait_for(self._ends_came.wait(), end - self._loop.time())
            except asyncio.TimeoutError:
                reason = f"its connections did not come within {ENDS_TIMEOUT_S:g} s"
                self._connection.send(_encode(NotForked(order.generation, reason)))
                return
        channel, output = [self._ends.pop(key).hand_on() for key in wanted]
        try:
            self._tell_zygote(order, [channel, channel, output])
        finally:
            for fd in (channel, output):
                os.close(fd)

    def _tell_zygote(self, order: "Fork | Ping", fds: "list[int] | None" = None) -> None:
        """Hands on an order. One that the zygote does not take stays unanswered, which the service notices."""
        if self._control is None:
            return
        try:
            socket.send_fds(self._control, [_encode(order)], fds or [])
        except OSError as error:
            if isinstance(order, Fork):
                self._connection.send(_encode(NotForked(order.generation, f"the zygote takes no order: {error}")))

    def _signal(self, order: Signal) -> None:
        number = signal.Signals(order.number)
        try:
            if order.generation == 0 and self._process is not None:
                self._process.send_signal(number)
            elif order.generation in self._pidfds:
                signal.pidfd_send_signal(self._pidfds[order.generation], number)
        except OSError:
            pass  # dead already; the report follows

    def _measure(self) -> None:
        self._connection.send(_encode(Measured(figures_of(self._pids), linux.oom_kills())))

    # --- notices of the zygote

    def _relay(self) -> None:
        if self._control is None:
            return
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._connection.send(_encode(Lost()))
            self._forget_control()
            self._run(self._hang_up())
            return
        notice = _notice_decoder.decode(packet)
        if isinstance(notice, Forked):
            self._pids[notice.generation] = notice.pid
            if fds:
                self._pidfds[notice.generation] = fds[0]
        elif isinstance(notice, Exited):
            self._pids.pop(notice.generation, None)
            self._close_pidfd(notice.generation)
        self._connection.send(packet)

    async def _hang_up(self) -> None:
        """Ends the service's connection behind the last notice."""
        await self._connection.flush()
        self._connection.hang_up()

    def _forget_control(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None

    def _close_pidfd(self, generation: int) -> None:
        pidfd = self._pidfds.pop(generation, None)
        if pidfd is not None:
            os.close(pidfd)

    async def _end(self) -> None:
        """Ends the zygote, and with it every worker."""
        self._forget_control()
        for task in self._tasks:
            task.cancel()
        for end in self._ends.values():
            end.close()
        assert self._process is not None
        if not await self._is_dead_within(CLOSE_TIMEOUT_S):
            self._process.kill()
            await self._is_dead_within(CLOSE_TIMEOUT_S)
        for generation in list(self._pidfds):
            self._close_pidfd(generation)

    async def _is_dead_within(self, seconds: float) -> bool:
        assert self._process is not None
        end = self._loop.time() + seconds
        while self._process.poll() is None:
            if self._loop.time() >= end:
                return False
            await asyncio.sleep(_POLL_S)
        return True
