"""A contender while it runs: real processes on loopback, from the first answer to the last process gone."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from bench.workloads import Workload

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
_MOST_READS = 10


class ContenderFailed(Exception):
    """A contender does not start, or does not answer as it must."""


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """The processor time of a server's processes, in seconds."""

    supervisor_s: float
    """The process that was started, if it only watches replicas."""
    replicas_s: Mapping[int, float]
    """By process: the replicas, or the process that was started if it is the only one."""
    others_s: float
    """The workers, and what serves them: the preloaded process and the exporter of spans, for example."""

    @property
    def total_s(self) -> float:
        """The sum over all processes."""
        return self.supervisor_s + sum(self.replicas_s.values()) + self.others_s

    def __sub__(self, before: "ProcessorTime") -> "ProcessorTime":
        return ProcessorTime(
            self.supervisor_s - before.supervisor_s,
            {pid: taken_s - before.replicas_s.get(pid, 0.0) for pid, taken_s in self.replicas_s.items()},
            self.others_s - before.others_s,
        )


class Server:
    """One contender's server, in a process group of its own."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path, port: int, path: str
    ) -> None:
        self.name = name
        self.directory = directory
        self.port = port
        self.path = path
        """The path at which it runs the program."""
        self._command = command
        self._environment = environment
        self._log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    def url(self, path: str) -> str:
        """On this server."""
        return f"http://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                env=dict(self._environment),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what it left behind
        self._process.wait()

    def wait_until_right(self, workload: Workload) -> None:
        """Returns when the program's answer is the right one.

        Raises:
            ContenderFailed: it is not within a minute, or is a wrong one.

        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.check(workload)
            except httpx.TransportError as error:
                self._give_up_after(deadline, error)
            else:
                return
            time.sleep(0.02)

    def check(self, workload: Workload) -> None:
        """Raises ContenderFailed where the answer is wrong, httpx.TransportError where there is none."""
        response = self.client.post(self.path, content=workload.body, headers={"content-type": "application/json"})
        answer: Any = response.json() if response.status_code == 200 else {}
        if answer.get("outputs") != workload.outputs:
            raise ContenderFailed(f"{self.name} answers {response.status_code}: {response.text[:500]}")

    def wait_until_ready(self, path: str) -> None:
        """Returns when `path` answers 200. Raises ContenderFailed."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                response = self.client.get(path)
                if response.status_code == 200:
                    return
                self._give_up_after(deadline, response.status_code)
            except httpx.TransportError as error:
                self._give_up_after(deadline, error)
            time.sleep(0.02)

    def check_alive(self) -> None:
        """Raises ContenderFailed where it is not: its workers may serve on, but that is no contender any more."""
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            raise ContenderFailed(f"{self.name} ended amid the bench, with status {status}:\n{self._last_lines()}")

    def _give_up_after(self, deadline: float, reason: object) -> None:
        assert self._process is not None
        if self._process.poll() is not None or time.monotonic() > deadline:
            raise ContenderFailed(f"{self.name} does not start ({reason}):\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])

    @property
    def process(self) -> psutil.Process:
        """The one that was started."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def processor_time(self) -> ProcessorTime:
        """The processor time of all its processes so far, as /proc has it, with that of those that have ended.

        A worker that ends is counted by the process that reaps it. So that none is missed or counted twice, this reads
        again if a process has come or gone meanwhile: when a generator leaves amid its calls, their workers end.
        """
        for _ in range(_MOST_READS):
            children = self.process.children(recursive=True)
            time_so_far = self._read(children)
            if set(self.process.children(recursive=True)) == set(children):
                break
        return time_so_far

    def _read(self, children: Sequence[psutil.Process]) -> ProcessorTime:
        started = self.process
        command = started.cmdline()
        own_s, others_s = _cpu_s(started)
        replicas_s: dict[int, float] = {}
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child_s, reaped_s = _cpu_s(child)
                if _is_fork(child, of=started.pid, command=command):
                    replicas_s[child.pid] = child_s
                else:
                    others_s += child_s
                others_s += reaped_s
        if replicas_s:
            return ProcessorTime(own_s, replicas_s, others_s)
        return ProcessorTime(0.0, {started.pid: own_s}, others_s)

    def rss_bytes(self) -> int:
        """Resident memory of the server process itself, without its workers."""
        rss: int = self.process.memory_info().rss
        return rss


def _cpu_s(process: psutil.Process) -> tuple[float, float]:
    """Returns the processor time of a process, and of the children that it has reaped. Raises psutil.NoSuchProcess."""
    times = process.cpu_times()
    return float(times.user + times.system), float(times.children_user + times.children_system)


def _is_fork(process: psutil.Process, *, of: int, command: Sequence[str]) -> bool:
    """Tells if a process is a fork of `of`, which runs `command`: all else that a service starts runs another one."""
    try:
        return process.ppid() == of and process.cmdline() == command
    except psutil.ZombieProcess:
        return False


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on."""
    for port in range(first, 65536):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ContenderFailed(f"no port is free from {first} on")
