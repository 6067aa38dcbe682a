"""Calls of Linux that keep the service's and the workers' processes in order, most without a name in Python."""

import ctypes
import os
import pwd
import resource
import signal
import time
from collections.abc import Container, Iterable
from pathlib import Path

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MAX_MMAP_THRESHOLD = 32 * 1024 * 1024
"""glibc takes no larger one (mallopt(3))."""

KEPT_BYTES = 16 * 1024 * 1024
"""Freed memory that malloc keeps in a process, at most."""
MAX_OPEN_FILES = 2**20
"""No process here needs more, and some kernels close what a worker inherits one by one, up to this number."""
OPEN_FILES_AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""The soft limit that this process was started with: workers keep to it, as code that uses select(2) must."""

_OOM_SCORE = "/proc/self/oom_score_adj"
_VICTIMS_SCORE = 500
_PAUSE_S = 0.05
_ENV_START = 47
"""The position of env_start in /proc/self/stat, counted behind the command's name (proc(5))."""

# Loaded once, before the first fork: a child calls through it without allocating.
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def signal_at_parents_death(number: signal.Signals) -> None:
    """Has the kernel send `number` to this process as soon as its parent is dead (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, number)


def die_with_parent() -> None:
    """Has the kernel kill this process as soon as its parent is dead."""
    signal_at_parents_death(signal.SIGKILL)


def set_dumpable(dumpable: bool) -> None:  # noqa: FBT001  # as prctl(2) has it
    """Says if processes of the same user may trace this one and read its memory and environment (PR_SET_DUMPABLE)."""
    _prctl(_PR_SET_DUMPABLE, dumpable)


def gain_no_privileges() -> None:
    """Keeps this process and its descendants from more rights by any program's set-user-id (PR_SET_NO_NEW_PRIVS)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become_user(uid: int, gid: int) -> None:
    """Changes this process to another user for good, with that user's home, and leaves all supplementary groups.

    Raises:
        PermissionError: this process may not.
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)
    set_dumpable(False)  # the kernel has set it to what fs.suid_dumpable says
    _set_home(uid)


def _set_home(uid: int) -> None:
    """Points libraries that keep files in the user's home to that of the new user, as `login` does."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return  # a number without a name, as in containers
    os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)


def overwrite_environment(names: Container[str]) -> None:
    """Overwrites the values of variables in the memory that this process was started with (/proc/PID/environ).

    Set again those that are still needed before this: no pointer of the C library is to lead there.
    """
    numbers = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    address = int(numbers[_ENV_START])
    for entry in Path("/proc/self/environ").read_bytes().split(b"\0"):
        name, _, value = entry.partition(b"=")
        if os.fsdecode(name) in names and address:
            ctypes.memset(address + len(entry) - len(value), ord("x"), len(value))
        address += len(entry) + 1


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent dies (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """The pids of this process's children, of its main thread (proc(5), task/[tid]/children)."""
    pid = os.getpid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(pid: int) -> None:
    """Sends SIGKILL to a child that is not reaped yet."""
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # dead already


def kill_group(leader: int) -> None:
    """Sends SIGKILL to the process group that a child leads, if any."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except OSError:
        pass  # nobody is left in it


def end_children(known: Iterable[int] = ()) -> None:
    """Kills all children with their groups, and whatever becomes a child by that; returns when none is left.

    `known` are children that die even if the kernel does not list any.
    """
    left = set(known)
    while True:
        try:
            listed, flags = children(), 0
        except OSError:
            listed, flags = [], os.WNOHANG  # no descriptor to be had: more of them are known later
            time.sleep(_PAUSE_S)
        for pid in left.union(listed):
            kill_group(pid)
            kill(pid)
        try:
            left.discard(os.waitpid(-1, flags)[0])
        except ChildProcessError:
            return


def block_signals() -> None:
    """Keeps every signal that can be blocked from this thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class OomScore:
    """The kernel's preference for this process as a victim when memory runs out (proc(5), oom_score_adj).

    Make it before `set_dumpable(False)`, which gives the file to root. A container may mount /proc read-only: then the
    kernel's own choice stands.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._own = 0
        try:
            self._fd = os.open(_OOM_SCORE, os.O_RDWR | os.O_CLOEXEC)
            self._own = int(os.pread(self._fd, 16, 0))
        except OSError:
            pass

    def become_victim(self) -> None:
        """Has the kernel kill this process rather than the service."""
        self._write(max(self._own, _VICTIMS_SCORE))

    def fork_victim(self) -> int:
        """Forks a child that the kernel kills rather than this process or the service; returns as `os.fork` does.

        The child inherits its score, since it could not set one: it is undumpable from the fork on.
        """
        self.become_victim()
        try:
            pid = os.fork()
        except OSError:
            self._write(self._own)
            raise
        if pid:
            self._write(self._own)
        return pid

    def _write(self, score: int) -> None:
        try:
            os.pwrite(self._fd, str(score).encode(), 0)
        except OSError:
            pass


def keep_freed_memory(kept_bytes: int = KEPT_BYTES) -> None:
    """Has malloc keep freed memory instead of giving it back to the kernel at once (mallopt(3)).

    By default glibc gives back what is over 128 KiB, and the kernel clears the pages that it takes again. That is most
    of a call's time with 100 kB in and out. A C library without mallopt is left as it is.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)
        mallopt(_M_MMAP_THRESHOLD, min(kept_bytes // 4, _MAX_MMAP_THRESHOLD))


def open_many_files() -> None:
    """Raises this process's soft limit of open files to the hard one, since each connection is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, OPEN_FILES_AT_START), hard))


def oom_kills() -> int:
    """Count of this cgroup's processes that the kernel has killed for memory; 0 if it does not say (cgroups(7))."""
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
