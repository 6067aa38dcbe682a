"""The service's end of one zygote (`poolshift.worker.zygote`): has workers forked and learns how each of them ended."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from pools.errors import SpawnFailed
from pools.process.ends import WorkerEnds, close_all
from pools.process.exits import Exit, ExitCause, describe_exit
from pools.process.handle import ProcessHandle
from pools.process.process import WorkerProcess
from poolshift.worker.definitions import Definition
from poolshift.worker.framing import MALFORMED
from poolshift.worker.notices import (
    Exited,
    Fork,
    Forked,
    NotForked,
    Notice,
    Order,
    Ping,
    Pong,
    Preloaded,
)

MAX_UNANSWERED = 5
"""A zygote that has left so many pings unanswered is killed."""
CLOSE_TIMEOUT_S = 2.0
"""From the closed control socket to SIGKILL: the zygote kills its workers and exits in less."""

_notice_decoder: msgspec.json.Decoder[Notice] = msgspec.json.Decoder(Notice)
_log = structlog.stdlib.get_logger("poolshift.spawner")


class ZygoteEnd(Protocol):
    """The way to a zygote's process: orders, notices and signals, wherever that process runs."""

    pid: int
    loss: str
    """The end of the zygote, in words: the reason that the calls of its lost workers are given."""
    last_words_s: float
    """The longest time that a dead worker's last bytes may still be under way, in seconds."""

    def listen(self, on_packet: Callable[[bytes, int], None], on_end: Callable[[], None]) -> None:
        """Calls `on_packet` with each notice and the descriptor that came along (-1 is none), `on_end` after the last.

        Raises:
            OSError: the kernel watches nothing more.
        """

    async def open_ends(self, generation: int) -> tuple[WorkerEnds, tuple[int, ...]]:
        """Opens the pipes of a worker that is about to be forked.

        Returns our ends, and the zygote's if they go along with the order.

        Raises:
            SpawnFailed: the way to the zygote is closed.
            OSError: this process has no descriptor left. Nothing stays open.
        """
        ...

    def send(self, order: Order, fds: Sequence[int] = ()) -> None:
        """Sends an order, with descriptors that go along.

        Raises:
            OSError: the zygote takes no order.
        """

    def handle(self, generation: int, pid: int, fd: int) -> ProcessHandle:
        """Takes over `fd`, and returns the hold on a worker that it came with."""
        ...

    def kill_group(self, pid: int) -> None:
        """Kills what a dead worker has left, when the zygote does not."""

    def oom_kills(self) -> int:
        """Count of processes that the kernel of the zygote's machine has killed for memory."""
        ...

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the zygote. Never raises."""

    def hang_up(self) -> None:
        """Closes the way: the zygote sees that and ends. No notice arrives from then on."""

    async def is_dead_within(self, seconds: float) -> bool:
        """Waits for the zygote's end; False if that does not come in time."""
        ...


class ZygoteLink:
    """One zygote and the workers that it has forked, until it is lost or closed."""

    def __init__(
        self,
        end: ZygoteEnd,
        on_end: Callable[["ZygoteLink"], None],
        load_timeout_s: float,
        when_loaded: Callable[[Definition], None],
    ) -> None:
        """Takes over `end`, which is closed if this raises.

        `on_end` is called when the zygote is of no more use: lost, or retired and without a living worker. Its
        workers have `load_timeout_s` and `when_loaded`.
        """
        self.is_retired = False
        self._is_discarded = False
        self._end = end
        self._is_open = True
        self._on_end = on_end
        self._load_timeout_s = load_timeout_s
        self._when_loaded = when_loaded
        self._workers: dict[int, WorkerProcess] = {}
        self._unanswered = 0
        self._oom_kills = end.oom_kills()
        self._loop = asyncio.get_running_loop()
        self.preloaded: asyncio.Future[Preloaded] = self._loop.create_future()
        self.revision_on_disk: str | None = None
        """The revision of the code on disk, as the zygote has last seen it."""
        try:
            end.listen(self._take_packet, self._lost)
        except BaseException:
            end.hang_up()
            raise

    def __repr__(self) -> str:
        return f"<ZygoteLink pid={self._end.pid} workers={len(self._workers)} retired={self.is_retired}>"

    @property
    def revision(self) -> str:
        """The revision of the code that its workers have. It must have preloaded."""
        return self.preloaded.result().revision

    @property
    def commit(self) -> str | None:
        """The git commit of that code; None if it is of no single one."""
        return self.preloaded.result().commit

    @property
    def workers(self) -> tuple[WorkerProcess, ...]:
        """The workers that are not dead."""
        return tuple(self._workers.values())

    # --- orders to the zygote

    async def fork(self, generation: int, user: tuple[int, int] | None = None) -> WorkerProcess:
        """Has a worker forked, which becomes ready by itself; it changes to the ids of `user`, if given.

        Raises:
            SpawnFailed: the zygote takes no order.
            OSError: this process has no descriptor left. Nothing stays open.
        """
        if not self._is_open:
            raise SpawnFailed("the zygote has died")
        ours, theirs = await self._end.open_ends(generation)
        try:
            if not self._is_open:
                ours.close()
                raise SpawnFailed("the zygote has died")
            worker = WorkerProcess(generation, ours, self._load_timeout_s, self._when_loaded)
            self._workers[generation] = worker
            try:
                self._end.send(Fork(generation, user), theirs)
            except OSError as error:
                self._ended(generation, Exit(ExitCause.CRASH, f"not started: {error}"))
                raise SpawnFailed(f"the zygote takes no order: {error}") from None
        finally:
            close_all(theirs)
        return worker

    def ping(self, *, asks_revision: bool = False) -> None:
        """Asks the zygote for a sign of life, if it has preloaded; called at regular intervals.

        A zygote that did not answer the last ping is continued, since any program can stop its parent. One that has
        answered none of the last `MAX_UNANSWERED` is killed.
        """
        if not self._is_open or not self.preloaded.done():
            return
        if self._unanswered >= MAX_UNANSWERED:
            _log.error("zygote does not answer; it is killed", pid=self._end.pid)
            self.kill()
            return
        if self._unanswered:
            _log.warning("zygote does not answer; it is continued", pid=self._end.pid)
            self._end.send_signal(signal.SIGCONT)
        self._unanswered += 1
        try:
            self._end.send(Ping(asks_revision))
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
        self._end.send_signal(signal.SIGKILL)
        self._lost()

    async def aclose(self) -> None:
        """Ends the zygote and with it every worker that is left; returns when all are dead."""
        self._hang_up()
        if not await self._end.is_dead_within(CLOSE_TIMEOUT_S):
            self._end.send_signal(signal.SIGKILL)
            if not await self._end.is_dead_within(CLOSE_TIMEOUT_S):
                _log.error("zygote cannot be killed", pid=self._end.pid)
        self._lose_workers(ExitCause.SHUTDOWN)

    # --- notices from the zygote

    def _take_packet(self, packet: bytes, fd: int) -> None:
        try:
            notice = _notice_decoder.decode(packet)
        except MALFORMED:
            _log.exception("zygote sent garbage; it is killed", pid=self._end.pid)
            self.kill()
            return
        self._unanswered = 0
        self._take(notice, fd)

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

    def _forked(self, generation: int, pid: int, fd: int) -> None:
        """Hands on the hold on the worker; the kernel drops its descriptor if this process has no room for it."""
        handle = self._end.handle(generation, pid, fd)
        worker = self._workers.get(generation)
        if worker is not None:
            worker.forked(pid, handle, lambda: self._unreported(generation))
        else:
            handle.close()

    def _exited(self, generation: int, status: int, cpu_s: float) -> None:
        worker = self._workers.get(generation)
        if worker is None:
            return  # taken for dead already: the report came too late
        before, self._oom_kills = self._oom_kills, self._end.oom_kills()
        end = describe_exit(
            status,
            cpu_s,
            ended_for=worker.ended_for,
            fault=worker.fault,
            oom_killed=self._oom_kills > before,
            reason=worker.kill_reason,
        )
        if self._end.last_words_s and worker.ended_for is None:
            worker.when_silent(lambda: self._ended(generation, end))
            self._loop.call_later(self._end.last_words_s, self._ended, generation, end)
        else:
            self._ended(generation, end)

    def _unreported(self, generation: int) -> None:
        """Ends a worker that the kernel says is dead, and whose exit the zygote does not report."""
        worker = self._workers.get(generation)
        if worker is not None:
            self._end.kill_group(worker.pid)
            description = worker.fault or "dead; the zygote did not say how"
            self._ended(generation, Exit(worker.ended_for or ExitCause.CRASH, description))

    def _ended(self, generation: int, end: Exit) -> None:
        worker = self._workers.pop(generation, None)
        if worker is not None:
            worker.ended(end)
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self.is_retired and not self._workers and self._is_open:
            self._on_end(self)

    def _lost(self) -> None:
        if not self._is_open:
            return
        if self.preloaded.done() and not self._is_discarded:
            _log.error("zygote died; its workers die with it and a new one is started", reason=self._end.loss)
        self._hang_up()
        self._on_end(self)
        if not self.preloaded.done():
            self.preloaded.set_exception(SpawnFailed("the zygote died at its start"))
            self.preloaded.exception()  # nobody may be waiting any more
        self._lose_workers(ExitCause.SIGNAL)

    def _hang_up(self) -> None:
        if self._is_open:
            self._is_open = False
            self._end.hang_up()

    def _lose_workers(self, cause: ExitCause) -> None:
        for generation, worker in list(self._workers.items()):
            if worker.pid:
                self._end.kill_group(worker.pid)  # what it started, now that nobody else can
            self._ended(generation, Exit(cause, self._end.loss, is_ours=True))
