"""Starts of services from a process that has their modules imported: a third of the time of `poolshift serve`.

Imports are most of a start, and the suite has hundreds of starts. Tests about the start itself run the command.
"""

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path

MODULES = (
    "app.listening",
    "app.server",
    "app.logs",
    "alembic.command",
    "cli.main",
    "config.api_keys",
    "config.secret_key",
    "uvloop",
)
_MAX_REQUEST_BYTES = 128 * 1024
_ASKING = threading.Lock()
"""An answer belongs to the last question: tests start several services at once, on threads."""


class PreloadedStart:
    """A service that was forked: what a test asks of a `subprocess.Popen`."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended
        """A pipe that says the exit code, once there is one."""

    def poll(self) -> int | None:
        """Returns the exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended, and returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("poolshift serve", timeout or 0)
            self.returncode = int(os.read(self._ended, 16))
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends a SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends a SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(directory: Path, environment: Mapping[str, str], log: int) -> PreloadedStart:
    """Starts `poolshift serve` in a folder, with its output in the file `log`, and a session of its own."""
    ended, says_end = os.pipe()
    try:
        request = json.dumps({"directory": str(directory), "environment": dict(environment)}).encode()
        with _ASKING:
            link = _nursery()
            socket.send_fds(link, [request], [log, says_end])
            return PreloadedStart(int(link.recv(16)), ended)
    finally:
        os.close(says_end)


@cache
def _nursery() -> socket.socket:
    """The connection to the process that forks. It ends when this one has gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    with theirs:
        nursery = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    atexit.register(nursery.wait, 10)
    atexit.register(ours.close)
    return ours


class _Nursery:
    """Forks services, and tells of their ends."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._says_end: dict[int, int] = {}
        self._wakes, self._woken = socket.socketpair()
        for end in (self._wakes, self._woken):
            end.setblocking(False)

    def run(self) -> None:
        """Returns in each process that it forks; itself it ends with its client."""
        signal.set_wakeup_fd(self._woken.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready = select.select([self._link, self._wakes], [], [])[0]
            if self._wakes in ready:
                self._wakes.recv(1024)
                self._reap()
            if self._link in ready and self._fork():
                return

    def _fork(self) -> bool:
        """Tells if this is the new process."""
        request, descriptors, _, _ = socket.recv_fds(self._link, _MAX_REQUEST_BYTES, 2)
        if not request:
            sys.exit()
        log, says_end = descriptors
        pid = os.fork()
        if pid == 0:
            self._become(json.loads(request), log)
            return True
        os.close(log)
        self._says_end[pid] = says_end
        self._link.send(str(pid).encode())
        return False

    def _become(self, request: dict[str, dict[str, str]], log: int) -> None:
        """Makes of this process what the command would have found itself in."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 1024)
        os.chdir(str(request["directory"]))
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[:] = ["poolshift", "serve"]

    def _reap(self) -> None:
        while self._says_end:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            says_end = self._says_end.pop(pid)
            with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                os.write(says_end, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(says_end)


def _serve_forks() -> None:
    from importlib import import_module

    from _poolshift_service import own_path

    sys.path[:] = own_path()
    for module in MODULES:
        import_module(module)
    gc.freeze()  # a collection in a fork would copy every page
    _Nursery(socket.socket(fileno=int(sys.argv[1]))).run()
    import_module("cli.main").main()


if __name__ == "__main__":
    _serve_forks()
