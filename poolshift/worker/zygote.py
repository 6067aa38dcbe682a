"""The preloaded process that workers are forked from, so that a new one is there in milliseconds and shares its memory.

It stays single-threaded, runs no program, and does three things: fork a worker on request, reap it and say how it
ended, and kill everything when the service is gone. The parent's side is `pools.process.spawner`.

    python -P -m poolshift.worker.zygote FD ALLOWED_MODULES PRELOAD OPEN_FILES OWN_ROOT

FD is its end of a SOCK_SEQPACKET pair, OPEN_FILES how many files a worker may have open, OWN_ROOT the service's folder.
A request is a generation with two file descriptors: the worker's socket and the pipe for its output.
"""

import gc
import importlib
import os
import resource
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from poolshift.worker import linux, user_path
from poolshift.worker.loop import Worker

MAX_PACKET_BYTES = 4096


class Fork(msgspec.Struct, tag="fork"):
    """Fork a worker of this generation (from the service)."""

    generation: int


class Ping(msgspec.Struct, tag="ping"):
    """Answer that you are alive (from the service)."""


Order = Fork | Ping


class Preloaded(msgspec.Struct, tag="preloaded"):
    """The zygote is up."""


class Forked(msgspec.Struct, tag="forked"):
    """The worker's process id; its pidfd comes along."""

    generation: int
    pid: int


class Exited(msgspec.Struct, tag="exited"):
    """The worker is dead and reaped; `status` is as waitpid(2) gives it, `cpu_s` the time it used, in seconds."""

    generation: int
    status: int
    cpu_s: float


class Pong(msgspec.Struct, tag="pong"):
    """The zygote is alive."""


Notice = Preloaded | Forked | Exited | Pong

_encode = msgspec.json.encode


class Zygote:
    """Forks workers and accounts for every one of them."""

    def __init__(self, control: socket.socket, allowed_modules: tuple[str, ...], open_files: int) -> None:
        self._control = control
        self._allowed_modules = allowed_modules
        self._open_files = open_files
        self._generations: dict[int, int] = {}
        self._wakeup_read, self._wakeup_write = socket.socketpair()

    def serve(self) -> None:
        """Forks and reaps until the service closes the control socket or dies; then kills every worker."""
        self._wakeup_read.setblocking(False)
        self._wakeup_write.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wakeup_read, selectors.EVENT_READ)
            self._control.send(_encode(Preloaded()))
            try:
                while self._turn([key.fileobj for key, _ in selector.select()]):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass  # the service died between two packets
        self._end_everything()

    def _turn(self, ready: list[object]) -> bool:
        if self._wakeup_read in ready:
            self._wakeup_read.recv(MAX_PACKET_BYTES)
            self._reap()
        if self._control in ready:
            packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 2)
            if not packet:
                return False
            order = msgspec.json.decode(packet, type=Order)
            if isinstance(order, Ping):
                self._control.send(_encode(Pong()))
            else:
                self._fork(order, *fds)
        return True

    def _fork(self, request: Fork, channel: int, output: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_worker(request.generation, channel, output)
        os.close(channel)
        os.close(output)
        self._generations[pid] = request.generation
        # Opened here, where the pid cannot be another's yet: a signal through it never hits the wrong process.
        pidfd = os.pidfd_open(pid)
        socket.send_fds(self._control, [_encode(Forked(request.generation, pid))], [pidfd])
        os.close(pidfd)

    def _become_worker(self, generation: int, channel: int, output: int) -> NoReturn:
        status = 1
        try:
            parent = os.getppid()
            os.setsid()  # a process group of its own: whatever it starts can be killed with it
            linux.die_with_parent()
            if os.getppid() != parent:
                os._exit(status)  # the zygote died before the kernel knew that this one is to follow
            linux.prefer_as_oom_victim()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sock = socket.socket(fileno=os.dup2(channel, 3, inheritable=False))
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (self._open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
            gc.enable()
            Worker(sock, generation, self._allowed_modules).serve()
            status = 0
        except SystemExit as exit_request:
            status = _exit_status(exit_request)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                # Not reaped yet: as a zombie it keeps its pid, so that the group killed next is surely its own.
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            self._end_group(dead.si_pid)
            _, status, usage = os.wait4(dead.si_pid, 0)
            generation = self._generations.pop(dead.si_pid, None)
            if generation is not None:  # otherwise an orphan that a worker left behind
                self._end_strays()
                self._control.send(_encode(Exited(generation, status, usage.ru_utime + usage.ru_stime)))

    def _end_strays(self) -> None:
        """Kills what dead workers left behind outside of their groups: as the reaper of orphans it is their parent."""
        for child in linux.children():
            if child not in self._generations:
                self._end_group(child)
                _kill(child)

    def _end_group(self, leader: int) -> None:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left in it

    def _end_everything(self) -> None:
        while True:
            for pid in (*self._generations, *linux.children()):
                self._end_group(pid)
                _kill(pid)
            try:
                pid, _ = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            self._generations.pop(pid, None)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _exit_status(request: SystemExit) -> int:
    """What a Python process would exit with (sys.exit)."""
    if request.code is None:
        return 0
    return request.code & 0xFF if isinstance(request.code, int) else 1


def main() -> None:
    """The zygote's whole life."""
    fd, allowed_modules, preload, open_files, own_root = sys.argv[1:]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends with the service, when the control socket closes
    linux.adopt_orphans()
    user_path.install(Path(own_root), allowed_modules.split(","))
    for module in filter(None, preload.split(",")):
        importlib.import_module(module)
    # Forked children share what is imported until they write to it; a collection would write to all of it.
    gc.collect()
    gc.disable()
    gc.freeze()
    control = socket.socket(fileno=int(fd))
    control.set_inheritable(False)
    Zygote(control, tuple(allowed_modules.split(",")), int(open_files)).serve()


if __name__ == "__main__":
    main()
