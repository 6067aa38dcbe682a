"""Runs the command `poolshift` in forks of a process that has its modules imported, for a third of the time.

Imports are most of a start, and the suite has a thousand of them. Tests about the start itself run the script.
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
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

READ_AT_IMPORT = ("LANG", "LC_", "LD_", "OTEL_PROPAGATORS", "OTEL_PYTHON", "PYTHON")
"""Beginnings of the names of variables that may count before the command's own code runs."""

OF_WORKERS = "PYTHONPATH"
"""Nothing of it is on the command's own path (packaging/_poolshift_service). A `sitecustomize` on it is not run."""

_SCRIPT = str(Path(sys.executable).with_name("poolshift"))
_MODULES = (
    "app.listening",
    "app.server",
    "app.logs",
    "alembic.command",
    "cli.main",
    "config.api_keys",
    "config.secret_key",
    "httpx",
    "poolshift.client",
    "prometheus_client.parser",
    "rich.live",
    "rich.table",
    "uvloop",
)
_MAX_REQUEST_BYTES = 128 * 1024
_ASKING = threading.Lock()
"""An answer belongs to the last question: tests start several services at once, on threads."""


class PreloadedStart:
    """A command that was forked: what a test asks of a `subprocess.Popen`."""

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


def start(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], stdin: int, stdout: int, stderr: int
) -> PreloadedStart:
    """Starts `poolshift` in a folder, with these files as its standard streams, in a session of its own."""
    request = {"arguments": arguments, "directory": str(directory), "environment": dict(environment)}
    ended, says_end = os.pipe()
    try:
        with _ASKING:
            link = _nursery()
            socket.send_fds(link, [json.dumps(request).encode()], [stdin, stdout, stderr, says_end])
            return PreloadedStart(int(link.recv(16)), ended)
    finally:
        os.close(says_end)


def run(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], stdin: str, timeout: float
) -> "subprocess.CompletedProcess[str]":
    """Runs `poolshift` to its end, as `subprocess.run` with `capture_output` does.

    Raises:
        subprocess.TimeoutExpired: it has been killed after `timeout` seconds.
    """
    with TemporaryFile() as read, TemporaryFile() as output, TemporaryFile() as faults:
        read.write(stdin.encode())
        read.seek(0)
        started = start(arguments, directory, environment, read.fileno(), output.fileno(), faults.fileno())
        try:
            status = started.wait(timeout)
        finally:
            started.kill()
        output.seek(0)
        faults.seek(0)
        command = [_SCRIPT, *arguments]
        return subprocess.CompletedProcess(command, status, output.read().decode(), faults.read().decode())


def can_run(environment: Mapping[str, str]) -> bool:
    """Tells if a command with these variables does the same in a fork as in a process of its own."""
    is_measured = any(name.startswith("COVERAGE_") for name in os.environ)
    return not is_measured and not any(name.startswith(READ_AT_IMPORT) for name in environment.keys() - {OF_WORKERS})


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
    """Forks commands, and tells of their ends."""

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
        request, descriptors, _, _ = socket.recv_fds(self._link, _MAX_REQUEST_BYTES, 4)
        if not request:
            sys.exit()
        *streams, says_end = descriptors
        pid = os.fork()
        if pid == 0:
            self._become(json.loads(request), streams)
            return True
        for stream in streams:
            os.close(stream)
        self._says_end[pid] = says_end
        self._link.send(str(pid).encode())
        return False

    def _become(self, request: dict[str, Any], streams: list[int]) -> None:
        """Makes of this process what the command would have found itself in."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 1024)
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[:] = [_SCRIPT, *request["arguments"]]

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
    from _poolshift_service import own_path, run

    sys.path[:] = own_path()
    for module in _MODULES:
        import_module(module)
    gc.freeze()  # a collection in a fork would copy every page
    _Nursery(socket.socket(fileno=int(sys.argv[1]))).run()
    run()


if __name__ == "__main__":
    _serve_forks()
