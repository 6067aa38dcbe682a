"""The service's end of one zygote (`poolshift.worker.zygote`): has workers forked and learns how each of them ended."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress

import msgspec
import structlog

from pools.errors import SpawnFailed
from pools.process.exits import Exit, ExitCause, describe_exit
from pools.process.process import WorkerProcess
from poolshift.worker import linux
from poolshift.worker.definitions import Definition
from poolshift.worker.framing import MALFORMED
from poolshift.worker.notices import (
    MAX_PACKET_BYTES,
    Exited,
    Fork,
    Forked,
    NotForked,
    Notice,
    Ping,
    Pong,
    Preloaded,
)

MAX_UNANSWERED = 5
"""A zygote that has left so many pings unanswered is killed."""
CLOSE_TIMEOUT_S = 2.0
"""From the closed control socket to SIGKILL: the zygote kills its workers and exits in less."""
POLL_INTERVAL_S = 0.01

_notice_decoder: msgspec.json.Decoder[Notice] = msgspec.json.Decoder(Notice)
_log = structlog.stdlib.get_logger("poolshift.spawner")


class ZygoteLink:
    """One zygote and the workers that it has forked, until it is lost or closed."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: socket.socket,
        on_end: Callable[["ZygoteLink"], None],
        load_timeout_s: float,
        when_loaded: Callable[[Definition], None],
    ) -> None:
        """Takes over `control`, which is closed if this raises.

        `on_end` is called when the zygote is of no more use: lost, or retired and without a living worker. The rest is
        for its workers.
        """
        self.is_retired = False
        self._is_discarded = False
        self._process = process
        self._control: socket.socket | None = control
        self._on_end = on_end
        self._load_timeout_s = load_timeout_s
        self._when_loaded = when_loaded
        self._workers: dict[int, WorkerProcess] = {}
        self._unanswered = 0
        self._oom_kills = linux.oom_kills()
        self._loop = asyncio.get_running_loop()
        self.preloaded: asyncio.Future[Preloaded] = self._loop.create_future()
        self.revision_on_disk: str | None = None
        """The revision of the code on disk, as the zygote has last seen it."""
        try:
            self._loop.add_reader(control, self._readable)
        except BaseException:
            control.close()
            raise

    def __repr__(self) -> str:
        return f"<ZygoteLink pid={self._process.pid} workers={len(self._workers)} retired={self.is_retired}>"

    # --- orders to the zygote

    def fork(self, generation: int, user: tuple[int, int] | None = None) -> WorkerProcess:
        """Has a worker forked, which becomes ready by itself; it changes to the ids of `user`, if given.

        Raises:
            SpawnFailed: the zygote takes no order.
            OSError: this process has no descriptor left. Nothing stays open.
        """
        if self._control is None:
            raise SpawnFailed("the zygote has died")
        with ExitStack() as worker_ends:
            ours, theirs = socket.socketpair()
            worker_ends.callback(_close, theirs.close)
            try:
                output_read, output_write = os.pipe()
            except OSError:
                ours.close()
                raise
            worker_ends.callback(_close, os.close, output_write)
            worker = WorkerProcess(generation, ours, output_read, self._load_timeout_s, self._when_loaded)
            self._workers[generation] = worker
            try:
                packet = msgspec.json.encode(Fork(generation, user))
                socket.send_fds(self._control, [packet], [theirs.fileno(), output_write])
            except OSError as error:
                self._ended(generation, Exit(ExitCause.CRASH, f"not started: {error}"))
                raise SpawnFailed(f"the zygote takes no order: {error}") from None
        return worker

    def ping(self, *, asks_revision: bool = False) -> None:
        """Asks the zygote for a sign of life, if it has preloaded; called at regular intervals.

        A zygote that did not answer the last ping is continued, since any program can stop its parent. One that has
        answered none of the last `MAX_UNANSWERED` is killed.
        """
        if self._control is None or not self.preloaded.done():
            return
        if self._unanswered >= MAX_UNANSWERED:
            _log.error("zygote does not answer; it is killed", pid=self._process.pid)
            self.kill()
            return
        if self._unanswered:
            _log.warning("zygote does not answer; it is continued", pid=self._process.pid)
            self._signal(signal.SIGCONT)
        self._unanswered += 1
        try:
            self._control.send(msgspec.json.encode(Ping(asks_revision)))
        except OSError:
            pass  # full, since nobody reads: that counts as unanswered; a broken one is noticed by its reader

    # --- its end

    def retire(self) -> None:
        """Lets the zygote live for as long as it has workers."""
        self.is_retired = True
        self._end_if_unused()

    def discard(self) -> None:
        """Kills a zygote that is not to fork any worker. Whoever discards it knows why."""
        self._is_discarded = True
        self.kill()

    def kill(self) -> None:
        """Ends the zygote at once, and its workers with it."""
        self._signal(signal.SIGKILL)
        self._lost()

    async def aclose(self) -> None:
        """Ends the zygote and with it every worker that is left; returns when all are dead."""
        self._forget_control()
        if not await self._is_dead_within(CLOSE_TIMEOUT_S):
            self._signal(signal.SIGKILL)
            if not await self._is_dead_within(CLOSE_TIMEOUT_S):
                _log.error("zygote cannot be killed", pid=self._process.pid)
        self._lose_workers(ExitCause.SHUTDOWN)

    async def _is_dead_within(self, seconds: float) -> bool:
        """Asks the kernel again and again, which needs neither a descriptor nor a thread."""
        end = self._loop.time() + seconds
        while self._process.poll() is None:
            if self._loop.time() >= end:
                return False
            await asyncio.sleep(POLL_INTERVAL_S)
        return True

    # --- notices from the zygote

    def _readable(self) -> None:
        if self._control is None:
            return
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._lost()
            return
        try:
            notice = _notice_decoder.decode(packet)
        except MALFORMED:
            _log.exception("zygote sent garbage; it is killed", pid=self._process.pid)
            self.kill()
            return
        self._unanswered = 0
        self._take(notice, fds[0] if fds else -1)

    def _take(self, notice: Notice, fd: int) -> None:
        match notice:
            case Preloaded():
                if not self.preloaded.done():
                    self.preloaded.set_result(notice)
            case Forked(generation, pid):
                self._forked(generation, pid, fd)
            case NotForked(generation, reason):
                self._ended(generation, Exit(ExitCause.CRASH, f"not started: {reason}", is_ours=True))
            case Exited(generation, status, cpu_s):
                self._exited(generation, status, cpu_s)
            case Pong(revision):  # any notice is a sign of life
                self.revision_on_disk = revision or self.revision_on_disk

    def _forked(self, generation: int, pid: int, pidfd: int) -> None:
        """Hands on the worker's pidfd; the kernel drops it if this process has no descriptor left for it."""
        worker = self._workers.get(generation)
        if worker is not None:
            worker.forked(pid, pidfd, lambda: self._unreported(generation))
        elif pidfd >= 0:
            _close(os.close, pidfd)

    def _exited(self, generation: int, status: int, cpu_s: float) -> None:
        worker = self._workers.get(generation)
        if worker is None:
            return  # taken for dead already: the report came too late
        before, self._oom_kills = self._oom_kills, linux.oom_kills()
        end = describe_exit(
            status,
            cpu_s,
            ended_for=worker.ended_for,
            fault=worker.fault,
            oom_killed=self._oom_kills > before,
            reason=worker.kill_reason,
        )
        self._ended(generation, end)

    def _unreported(self, generation: int) -> None:
        """Ends a worker that the kernel says is dead, and whose exit the zygote does not report."""
        worker = self._workers.get(generation)
        if worker is not None:
            _kill_group(worker.pid)
            description = worker.fault or "dead; the zygote did not say how"
            self._ended(generation, Exit(worker.ended_for or ExitCause.CRASH, description))

    def _ended(self, generation: int, end: Exit) -> None:
        worker = self._workers.pop(generation, None)
        if worker is not None:
            worker.ended(end)
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self.is_retired and not self._workers and self._control is not None:
            self._on_end(self)

    def _lost(self) -> None:
        if self._control is None:
            return
        if self.preloaded.done() and not self._is_discarded:
            _log.error("zygote died; its workers die with it and a new one is started")
        self._forget_control()
        self._on_end(self)
        if not self.preloaded.done():
            self.preloaded.set_exception(SpawnFailed("the zygote died at its start"))
            self.preloaded.exception()  # nobody may be waiting any more
        self._lose_workers(ExitCause.SIGNAL)

    def _forget_control(self) -> None:
        if self._control is not None:
            control, self._control = self._control, None
            _close(self._loop.remove_reader, control)
            _close(control.close)

    def _lose_workers(self, cause: ExitCause) -> None:
        for generation, worker in list(self._workers.items()):
            if worker.pid:
                _kill_group(worker.pid)  # what it started, now that nobody else can
            self._ended(generation, Exit(cause, "killed with the zygote", is_ours=True))

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


def _kill_group(leader: int) -> None:
    with suppress(OSError):  # nobody is left in it
        os.killpg(leader, signal.SIGKILL)


def _close(close: Callable[..., object], *arguments: object) -> None:
    """Lets go of something; a complaint of the kernel's keeps nothing else from being done."""
    try:
        close(*arguments)
    except OSError as error:
        _log.warning("cannot let go of a descriptor", reason=str(error))
