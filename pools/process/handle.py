"""A hold on one worker's process: signals, its death and its measurements."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Protocol

from pools.process.stats import ProcessStats, process_stats, resident_bytes


class ProcessHandle(Protocol):
    """A hold on a process, wherever that runs."""

    node: str | None
    """The node of a cluster that the process is on; None is this machine."""
    fault: str | None
    """The reason for which nobody would notice the process's death; None if the handle tells of it."""

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process lives. Never raises."""

    def watch(self, on_death: Callable[[], None]) -> None:
        """Calls `on_death` once the process is dead, if the handle learns of that before the zygote's report.

        Raises:
            OSError: the kernel watches nothing more.
        """

    def stats(self) -> ProcessStats | None:
        """Measures the process; None if it is gone or cannot be measured. May be called in any thread."""
        ...

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        """Calls `listener` with the resident memory in bytes, 0 if it is not known: at once, or when a node answers."""

    def close(self) -> None:
        """Lets go of the process."""


class PidHandle:
    """A hold on a process of this machine, by the descriptor that the kernel gives for it (pidfd_open(2))."""

    node: str | None = None

    def __init__(self, pid: int, pidfd: int) -> None:
        """Takes over `pidfd`, which is -1 if no descriptor was left for it."""
        self._pid = pid
        self._pidfd = pidfd
        self._is_open = True
        self._loop = asyncio.get_running_loop()
        self.fault = None if pidfd >= 0 else "no file descriptor was left to watch it with"

    def __repr__(self) -> str:
        return f"<PidHandle pid={self._pid}>"

    def send_signal(self, number: signal.Signals) -> None:
        try:
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._is_open:
                os.kill(self._pid, number)
        except OSError:
            pass  # dead already; the report follows

    def watch(self, on_death: Callable[[], None]) -> None:
        def died() -> None:
            self._loop.remove_reader(self._pidfd)
            on_death()

        self._loop.add_reader(self._pidfd, died)

    def stats(self) -> ProcessStats | None:
        return process_stats(self._pid)

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        listener(resident_bytes(self._pid))

    def close(self) -> None:
        self._is_open = False
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            try:
                self._loop.remove_reader(pidfd)
            finally:
                os.close(pidfd)
