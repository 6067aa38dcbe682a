"""A zygote of this machine: its process, and the socket pair that orders and notices go through."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from pools.process.ends import WorkerEnds, close, close_all
from pools.process.handle import PidHandle
from poolshift.worker import linux
from poolshift.worker.notices import MAX_PACKET_BYTES, Order

POLL_INTERVAL_S = 0.01
PIPE_BYTES = 128 * 1024
"""The size of a pipe to or from a worker, twice the kernel's own: fewer turns for a large payload. Linux allows a user
64 MiB in pipes beyond which new ones are small, by default; these are what 256 workers take."""


class LocalZygote:
    """The way to a zygote of this machine (see `pools.process.zygote_link.ZygoteEnd`)."""

    loss = "killed with the zygote"
    last_words_s = 0.0
    """Time to wait for the last bytes of a dead worker, in seconds: here they have come when its death is reported."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Takes over `control`."""
        self.pid = process.pid
        self._process = process
        self._control: socket.socket | None = control
        self._on_packet: Callable[[bytes, int], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<LocalZygote pid={self.pid}>"

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> "LocalZygote":
        """Starts the process that `command` names; the number of its socket is its last argument.

        Raises:
            OSError: it could not be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                # Not asyncio's: uvloop leaves descriptors open if there are too few to start a process.
                process = subprocess.Popen(  # noqa: S603
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=dict(environment),
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, ours)

    def listen(self, on_packet: Callable[[bytes, int], None], on_end: Callable[[], None]) -> None:
        self._on_packet, self._on_end = on_packet, on_end
        if self._control is not None:
            self._loop.add_reader(self._control, self._readable)

    async def open_ends(self, generation: int) -> tuple[WorkerEnds, tuple[int, ...]]:
        (requests_read, requests), (replies, replies_write), (output, output_write) = _pipes(3)
        for pipe in (requests, replies):
            with suppress(OSError):  # this user has too much in pipes: they keep the size that they have
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            with suppress(OSError):  # a sandbox may refuse this, whose kernel is not Linux
                os.fchmod(pipe, 0)  # nobody gets hold of it by its name in /proc
        return WorkerEnds(requests, replies, output), (requests_read, replies_write, output_write)

    def send(self, order: Order, fds: Sequence[int] = ()) -> None:
        if self._control is None:
            raise BrokenPipeError
        if fds:
            socket.send_fds(self._control, [msgspec.json.encode(order)], list(fds))
        else:
            self._control.send(msgspec.json.encode(order))

    def handle(self, generation: int, pid: int, fd: int) -> PidHandle:
        return PidHandle(pid, fd)

    def kill_group(self, pid: int) -> None:
        with suppress(OSError):  # nobody is left in it
            os.killpg(pid, signal.SIGKILL)

    def oom_kills(self) -> int:
        return linux.oom_kills()

    def send_signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def hang_up(self) -> None:
        if self._control is not None:
            control, self._control = self._control, None
            close(self._loop.remove_reader, control)
            close(control.close)

    async def is_dead_within(self, seconds: float) -> bool:
        """Asks the kernel again and again, which needs neither a descriptor nor a thread."""
        end = self._loop.time() + seconds
        while self._process.poll() is None:
            if self._loop.time() >= end:
                return False
            await asyncio.sleep(POLL_INTERVAL_S)
        return True

    def _readable(self) -> None:
        if self._control is None or self._on_packet is None or self._on_end is None:
            return
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet, fds = b"", []
        if packet:
            self._on_packet(packet, fds[0] if fds else -1)
        else:
            self._on_end()


def _pipes(count: int) -> list[tuple[int, int]]:
    """Opens pipes, each with its end to read from and its end to write to.

    Raises:
        OSError: this process has no descriptor left. Nothing stays open.
    """
    pipes: list[tuple[int, int]] = []
    try:
        while len(pipes) < count:
            pipes.append(os.pipe())
    except OSError:
        for pipe in pipes:
            close_all(pipe)
        raise
    return pipes
