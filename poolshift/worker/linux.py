"""The few calls of Linux that worker processes are kept in order with and that Python has no name for."""

import ctypes
import os
import resource
import signal
from pathlib import Path

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

MAX_OPEN_FILES = 2**20
"""No process here needs more, and some kernels close what a worker inherits one by one, up to this number."""
OPEN_FILES_AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""The soft limit that this process was started with: workers keep to it, as code that uses select(2) must."""

# Loaded once, before the first fork: a child calls through it without allocating.
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def die_with_parent() -> None:
    """The kernel kills this process as soon as its parent is dead (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Descendants whose parent dies become children of this process (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """The pids of this process's children, of its main thread (proc(5), task/[tid]/children)."""
    pid = os.getpid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def prefer_as_oom_victim() -> None:
    """The kernel, short of memory, ends this process rather than the service (proc(5), oom_score_adj)."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        pass  # some containers mount /proc read-only: then the kernel's own choice stands


def open_many_files() -> None:
    """This process may have as many files open as its hard limit allows: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, OPEN_FILES_AT_START), hard))


def oom_kills() -> int:
    """How many processes of this cgroup the kernel has killed for memory; 0 where it does not say (cgroups(7))."""
    try:
        own = next(
            line.split("::", 1)[1].strip()
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
        events = Path(f"/sys/fs/cgroup{own}/memory.events").read_text()
    except (OSError, StopIteration):
        return 0
    return sum(int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill "))
