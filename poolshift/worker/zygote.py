"""The preloaded process that workers are forked from, so that a new one is there in milliseconds and shares its memory.

The zygote stays single-threaded, runs no program, and does three things. It forks a worker on request. It reaps each
worker and says how that ended. It kills everything when the service is gone. The service's end of its socket is
`pools.process.zygote_link`.

    python -P -m poolshift.worker.zygote ALLOWED OWN_PRELOAD PRELOAD RECENT LOAD_TIMEOUT_S CALLS OPEN_FILES OWN_ROOT FD

FD is its end of a SOCK_SEQPACKET pair, OPEN_FILES how many files a worker may have open, OWN_ROOT the service's folder.
CALLS is `many` if a worker runs many calls at once, else `one`.
Modules to import are of three kinds: the service's own, the operator's, and those that programs named recently.
A request is a generation with three file descriptors: those that the worker's requests come from, and that its replies
and its output go to.
"""

import errno
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

import msgspec

from poolshift.worker import linux, program_source, reaper, user_path
from poolshift.worker.child import WorkerChild, run_and_exit
from poolshift.worker.import_check import fault_of_import, is_missing
from poolshift.worker.notices import (
    CALLS_OF_SHARED,
    MAX_PACKET_BYTES,
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
from poolshift.worker.revision import CodeRevision

_PAUSE_S = 0.1
"""Time between two attempts at something that the system refuses, for want of memory or of file descriptors."""

_FDS_OF_WORKER = 3

_encode = msgspec.json.encode
_order_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


class Zygote:
    """Forks workers and accounts for every one of them.

    No failure of the system ends it, since all workers would end with it: a start that fails is told to the service,
    anything else is tried again.
    """

    def __init__(
        self,
        control: socket.socket,
        allowed_modules: tuple[str, ...],
        code: CodeRevision,
        failures: dict[str, str],
        broken: dict[str, str],
        open_files: int,
        oom_score: linux.OomScore,
        *,
        is_shared: bool,
    ) -> None:
        """`failures` and `broken` are modules that could not be imported, as `Preloaded` tells them."""
        self._control = control
        self._allowed_modules = allowed_modules
        self._code = code
        self._failures = failures
        self._broken = broken
        self._open_files = open_files
        self._oom_score = oom_score
        self._is_shared = is_shared
        self._pid = os.getpid()
        self._parent = os.getppid()
        self._generations: dict[int, int] = {}
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        """Notices, in order, each with the file descriptor that goes along."""
        self._is_unswept = False
        self._wakeup_read, self._wakeup_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Forks and reaps until the service closes the control socket or dies; then kills every worker."""
        self._watch()
        try:
            if self._begin():
                while self._turn():
                    pass
        finally:
            if os.getpid() != self._pid:
                os._exit(1)  # a child: it never comes here, and must not end its siblings if it does
        linux.end_children(self._generations)
        signal.set_wakeup_fd(-1)  # its socket closes with this object, before the process ends

    def _begin(self) -> bool:
        """Says that it is up; False if the service is gone already."""
        try:
            self._tell(Preloaded(self._code.at_start, self._failures, self._broken, self._code.commit))
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _watch(self) -> None:
        self._wakeup_read.setblocking(False)
        self._wakeup_write.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The death of its parent wakes a zygote up, even one that is stopped, and ends its serving.
        signal.signal(signal.SIGCONT, lambda *_: None)
        linux.signal_at_parents_death(signal.SIGCONT)
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wakeup_read, selectors.EVENT_READ)

    def _turn(self) -> bool:
        """Does what there is to do; False if the service or the parent is gone."""
        try:
            is_behind = self._is_unswept or self._unsent
            ready = [key.fileobj for key, _ in self._selector.select(_PAUSE_S if is_behind else None)]
            if self._wakeup_read in ready:
                self._wakeup_read.recv(MAX_PACKET_BYTES)
            self._reap()
            if self._is_unswept:
                self._sweep()
            self._send()
            return os.getppid() == self._parent and (self._control not in ready or self._receive())
        except (BrokenPipeError, ConnectionResetError):
            return False  # the service died between two packets
        except OSError:
            self._is_unswept = True  # tried again after a pause
            return True

    def _receive(self) -> bool:
        packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, _FDS_OF_WORKER)
        if not packet:
            return False
        order = _order_decoder.decode(packet)
        if isinstance(order, Ping):
            self._tell(Pong(self._code.now() if order.asks_revision else None))
            return True
        try:
            self._start(order, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _start(self, request: Fork, fds: list[int]) -> None:
        pid = 0
        try:
            requests, replies, output = _all_of(fds)
            pid = self._oom_score.fork_victim()
            # Opened here, while the pid cannot be another's: a signal through it never hits the wrong process.
            pidfd = os.pidfd_open(pid) if pid else -1
        except OSError as error:
            if pid:
                linux.kill(pid)
            self._tell(NotForked(request.generation, f"{error.strerror} (errno {error.errno})"))
            return
        if pid == 0:
            child = WorkerChild(
                request.generation,
                requests,
                replies,
                output,
                self._allowed_modules,
                self._code,
                self._open_files,
                is_shared=self._is_shared,
            )
            run_and_exit(partial(child.run, self._pid, request.user))
        self._generations[pid] = request.generation
        self._tell(Forked(request.generation, pid), pidfd)

    def _tell(self, notice: Notice, fd: int | None = None) -> None:
        self._unsent.append((_encode(notice), fd))
        self._send()

    def _send(self) -> None:
        """Sends the notices that wait.

        Raises:
            BrokenPipeError, ConnectionResetError: the service is gone.
        """
        while self._unsent:
            packet, fd = self._unsent[0]
            try:
                if fd is None:
                    self._control.send(packet)
                else:
                    socket.send_fds(self._control, [packet], [fd])
            except (BrokenPipeError, ConnectionResetError):
                raise
            except OSError:
                return  # no memory, or too many descriptors under way: the next turn sends it
            self._unsent.popleft()
            if fd is not None:
                os.close(fd)

    def _reap(self) -> None:
        while True:
            try:
                # Not reaped yet: as a zombie it keeps its pid, so that the group killed next is surely its own.
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                dead = None
            if dead is None:
                return
            linux.kill_group(dead.si_pid)
            _, status, usage = os.wait4(dead.si_pid, 0)
            self._sweep()
            generation = self._generations.pop(dead.si_pid, None)
            if generation is not None:  # otherwise an orphan that a worker left behind
                self._tell(Exited(generation, status, usage.ru_utime + usage.ru_stime))

    def _sweep(self) -> None:
        """Kills what dead workers left outside of their groups: an orphan of a living one is that worker's child."""
        try:
            orphans = [child for child in linux.children() if child not in self._generations]
        except OSError:
            self._is_unswept = True  # no descriptor to be had: the next turn sweeps
            return
        self._is_unswept = False
        for child in orphans:
            linux.kill_group(child)
            linux.kill(child)


def _all_of(fds: list[int]) -> list[int]:
    """All descriptors of a worker.

    Raises:
        OSError: the kernel has dropped one, since this process had no room for it.
    """
    if len(fds) != _FDS_OF_WORKER:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return fds


def _import_all(modules: Iterable[str], limit_s: float, needed: Collection[str] | None = None) -> dict[str, str]:
    """Imports modules of users, each within `limit_s`. Returns those that cannot be imported, with the reason.

    A module that was removed is no failure unless it is one of those `needed`, by default all.
    """
    failures = ((module, _failure_of_import(module, limit_s)) for module in modules)
    return {
        module: fault_of_import(failure)
        for module, failure in failures
        if failure is not None and (needed is None or module in needed or not is_missing(module, failure))
    }


def _failure_of_import(module: str, limit_s: float) -> BaseException | None:
    def overrun(*_: object) -> None:
        raise TimeoutError(f"the import takes more than {limit_s:g} s")

    signal.signal(signal.SIGALRM, overrun)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        importlib.import_module(module)
    except BaseException as error:  # SystemExit, too: the workers' parent outlives every module
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return None


def main() -> None:
    """Preloads what the command line names, and serves until the service is gone."""
    oom_score = linux.OomScore()
    linux.set_dumpable(False)  # and so are its workers, from their forks on: each has calls and keys of its own
    allowed_modules, own_preload, preload, recent, load_timeout_s, calls, open_files, own_root, fd = sys.argv[1:]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends with the service, when the control socket closes
    linux.keep_freed_memory()  # for the workers, which inherit it
    linux.adopt_orphans()
    user_path.install(Path(own_root), allowed_modules.split(","))
    code = CodeRevision(allowed_modules.split(","), Path(own_root))  # before any of it is imported
    program_source.keep(code.sources)
    for module in filter(None, own_preload.split(",")):
        importlib.import_module(module)
    is_shared = calls == CALLS_OF_SHARED
    if is_shared:
        importlib.import_module("poolshift.worker.concurrent")
    failures = _import_all(filter(None, preload.split(",")), float(load_timeout_s))
    # What PROGRAM_MODULES names has to be there, as at a start.
    broken = _import_all(filter(None, recent.split(",")), float(load_timeout_s), allowed_modules.split(","))
    # Forked children share what is imported until they write to it; a collection would write to all of it.
    gc.collect()
    gc.disable()
    gc.freeze()
    control = socket.socket(fileno=int(fd))
    control.set_inheritable(False)
    allowed = tuple(allowed_modules.split(","))
    Zygote(control, allowed, code, failures, broken, int(open_files), oom_score, is_shared=is_shared).serve()


if __name__ == "__main__":
    reaper.run_beside_reaper(main)
