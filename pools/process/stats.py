"""Measures a process from outside, as the kernel accounts for it."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """Resident memory, processor time so far (user and system), and open file descriptors.

    The kernel does not count the files of another user's process for a service without CAP_SYS_PTRACE; then it is None.
    """

    rss_bytes: int
    cpu_seconds: float
    open_fds: int | None


def process_stats(pid: int) -> ProcessStats | None:
    """Measures `pid` now; None if it is gone, or cannot be measured (no descriptor is left, say)."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return ProcessStats(process.memory_info().rss, times.user + times.system, _open_fds(process))
    except Exception:  # it parses what the kernel says, and one odd process must not hide the others
        return None


def resident_bytes(pid: int) -> int:
    """The resident memory of `pid` now; 0 if it is gone or cannot be measured."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # as above
        return 0


def _open_fds(process: psutil.Process) -> int | None:
    try:
        return process.num_fds()
    except psutil.AccessDenied:
        return None
