"""The service's end of the zygote (`poolshift.worker.zygote`): asks for workers and learns how each of them ended."""

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from pools.errors import SpawnFailed, WorkerCrashed
from pools.process.exits import Exit, ExitCause, describe_exit
from pools.process.process import WorkerProcess
from poolshift.worker import linux
from poolshift.worker.definitions import Definition
from poolshift.worker.loading import EntrypointError
from poolshift.worker.zygote import MAX_PACKET_BYTES, Exited, Fork, Forked, Notice, Preloaded

START_TIMEOUT_S = 60.0
"""For the zygote to import what it preloads, and for a worker to say that it is ready."""

_notice_decoder: msgspec.json.Decoder[Notice] = msgspec.json.Decoder(Notice)
_log = structlog.stdlib.get_logger("poolshift.spawner")


class Spawner:
    """Starts worker processes. Both pools share one; a zygote that dies takes its workers along and is replaced."""

    def __init__(
        self,
        allowed_modules: Sequence[str],
        environment: Mapping[str, str],
        preload: Sequence[str] = (),
        *,
        own_root: Path,
    ) -> None:
        """Takes the service's own folder as `own_root`: a worker finds the examples there, and nothing else.

        `environment` is all that a worker sees of the service's environment.
        """
        self._allowed_modules = tuple(allowed_modules)
        self._environment = dict(environment)
        self._preload = tuple(preload)
        self._own_root = own_root
        self._generations = itertools.count(1)
        self._workers: dict[int, WorkerProcess] = {}
        self._zygote: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._preloaded: asyncio.Future[None] | None = None
        self._starting = asyncio.Lock()
        self._oom_kills = linux.oom_kills()

    async def spawn(self) -> WorkerProcess:
        """A new worker that is ready.

        Raises:
            SpawnFailed: it could not be started, or died at once.
        """
        worker = await self._fork()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(worker.ready)
        except (WorkerCrashed, TimeoutError) as error:
            worker.kill(ExitCause.CRASH)
            raise SpawnFailed(f"a worker did not get ready: {error}") from None
        except asyncio.CancelledError:
            worker.kill(ExitCause.SHUTDOWN)
            raise
        return worker

    async def check(self, definition: Definition, timeout_s: float = 10.0) -> None:
        """Has a worker of its own, which is in no pool, try whether `definition` can be loaded.

        Raises:
            EntrypointError: it cannot, and why; a module that hangs or dies on import is also one.
            SpawnFailed: no worker could be started to try it.
        """
        worker = await self.spawn()
        try:
            async with asyncio.timeout(timeout_s):
                await worker.check(definition)
        except TimeoutError:
            raise EntrypointError(f"{definition.entrypoint} takes more than {timeout_s:g} s to import") from None
        except WorkerCrashed as error:
            raise EntrypointError(f"{definition.entrypoint} ends the process on import ({error.exit_cause})") from None
        finally:
            worker.kill(ExitCause.RECYCLED)

    async def aclose(self) -> None:
        """Ends the zygote and with it every worker that is left; returns when all are dead."""
        if self._control is not None:
            self._forget_control()
        if self._zygote is not None:
            await self._zygote.wait()
            self._zygote = None
        self._lose_workers(ExitCause.SHUTDOWN)

    async def _fork(self) -> WorkerProcess:
        control = await self._running_control()
        ours, theirs = socket.socketpair()
        output_read, output_write = os.pipe()
        worker = WorkerProcess(next(self._generations), ours, output_read)
        self._workers[worker.generation] = worker
        try:
            packet = msgspec.json.encode(Fork(worker.generation))
            socket.send_fds(control, [packet], [theirs.fileno(), output_write])
        except OSError as error:
            self._ended(worker.generation, Exit(ExitCause.CRASH, f"not started: {error}"))
            raise SpawnFailed(f"the zygote takes no request: {error}") from None
        finally:
            theirs.close()
            os.close(output_write)
        return worker

    async def _running_control(self) -> socket.socket:
        async with self._starting:
            if self._control is None:
                await self._start_zygote()
            assert self._control is not None
            return self._control

    async def _start_zygote(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._zygote = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "poolshift.worker.zygote",
                str(theirs.fileno()),
                ",".join(self._allowed_modules),
                ",".join(self._preload),
                str(linux.OPEN_FILES_AT_START),
                str(self._own_root),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )
        self._control = ours
        self._preloaded = loop.create_future()
        loop.add_reader(ours, self._readable)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._preloaded
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._zygote.send_signal(signal.SIGKILL)
            self._zygote_lost()
            raise SpawnFailed("the zygote did not get ready") from None

    def _readable(self) -> None:
        assert self._control is not None
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._zygote_lost()
            return
        match _notice_decoder.decode(packet):
            case Preloaded():
                if self._preloaded is not None and not self._preloaded.done():
                    self._preloaded.set_result(None)
            case Forked(generation, pid):
                self._workers[generation].forked(pid, fds[0])
            case Exited(generation, status, cpu_s):
                worker = self._workers[generation]
                oom_killed = self._was_oom_kill()
                end = describe_exit(
                    status, cpu_s, ended_for=worker.ended_for, fault=worker.fault, oom_killed=oom_killed
                )
                self._ended(generation, end)

    def _was_oom_kill(self) -> bool:
        before, self._oom_kills = self._oom_kills, linux.oom_kills()
        return self._oom_kills > before

    def _ended(self, generation: int, end: Exit) -> None:
        self._workers.pop(generation).ended(end)

    def _zygote_lost(self) -> None:
        _log.error("zygote died; its workers die with it and a new one is started")
        self._forget_control()
        if self._preloaded is not None and not self._preloaded.done():
            self._preloaded.set_exception(SpawnFailed("the zygote died at its start"))
        self._lose_workers(ExitCause.SIGNAL)

    def _forget_control(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    def _lose_workers(self, cause: ExitCause) -> None:
        for generation, worker in list(self._workers.items()):
            if worker.pid:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)  # what it started, now that nobody else can
            self._ended(generation, Exit(cause, "killed with the zygote", is_ours=True))
