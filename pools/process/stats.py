"""Measures a process from outside, as the kernel accounts for it."""

from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """Resident memory, processor time so far (user and system), and open file descriptors.

    Linux before 6.2 lists the files of a worker only to a service that has CAP_SYS_PTRACE; otherwise it is None.
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
    """Counts the files by the size of their folder, which is 0 before Linux 6.2, or else by its entries."""
    counted = Path(f"/proc/{process.pid}/fd").stat().st_size
    try:
        return counted or process.num_fds()
    except psutil.AccessDenied:
        return None
