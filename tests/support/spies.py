"""Programs that try to get at what is the service's."""

import ctypes
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

_PTRACE_ATTACH = 16
_PIDFD_GETFD = 438


def service() -> int:
    """The process id of the service: the first ancestor that is no zygote."""
    pid = os.getppid()
    while b"poolshift.worker.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(status.partition("PPid:")[2].split()[0])
    return pid


def spies(files: list[str], secret: str) -> dict[str, str]:
    """Tries to reach the service's secrets; returns for each attempt, by name, `denied` or its result."""
    pid = service()
    attempts = {
        "environ": lambda: _has(Path(f"/proc/{pid}/environ").read_bytes(), secret),
        "memory": lambda: _read_memory(pid, secret),
        "files": lambda: str(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
        "trace": lambda: _trace(pid),
        "own environment": lambda: _has(repr(dict(os.environ)).encode(), secret),
        "root": _become_root,
        "sudo": _no_new_privileges,
        "zygote": lambda: _has(Path(f"/proc/{os.getppid()}/environ").read_bytes(), secret),
        "kill": lambda: _signal(pid),
        **{path: lambda path=path: Path(path).read_bytes().hex()[:20] for path in files},  # type: ignore[misc]
    }
    return {name: _try(attempt) for name, attempt in attempts.items()}


def opens_pipes_of_siblings() -> list[str]:
    """Tries to open each worker's pipes to the service by their names; returns each outcome."""
    zygote = os.getppid()
    workers = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    pipes = [f"/proc/{worker}/fd/{fd}" for worker in workers for fd in (3, 4)]
    return [_try(lambda pipe=pipe: str(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))) for pipe in pipes]


def looks_at_everyone() -> dict[str, list[str]]:
    """Tries to look into each other process of the service's; returns the outcomes by command line and process id.

    A process that ends meanwhile is left out.
    """
    found = {}
    for pid in _descendants(_first_of(service())):
        attempts = {
            "environ": lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes()[:1],
            "memory": lambda pid=pid: Path(f"/proc/{pid}/mem").open("rb").close(),
            "files": lambda pid=pid: os.listdir(f"/proc/{pid}/fd"),  # noqa: PTH208
            "file": lambda pid=pid: [_take_file(pid, fd) for fd in range(3)],
            "trace": lambda pid=pid: _trace(pid),
        }
        outcomes = [f"{name} {_try(attempt)}" for name, attempt in attempts.items()]
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        found[f"{command}{pid}"] = outcomes
    return found


def _first_of(service: int) -> int:
    """The supervisor, if the service is one of several replicas: they are its forks. Otherwise the service."""
    parent = int(Path(f"/proc/{service}/stat").read_text().rpartition(")")[2].split()[1])
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (service, parent)]
    return parent if commands[0] == commands[1] else service


def _descendants(first: int) -> list[int]:
    """A process and all below it, without this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [first]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [pid for pid in found if pid != os.getpid()]


def _take_file(pid: int, fd: int) -> int:
    """Gets a file of another process (pidfd_getfd(2)), such as the pipe of its replies."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    taken: int = libc.syscall(_PIDFD_GETFD, pidfd, fd, 0)
    number = ctypes.get_errno()
    os.close(pidfd)
    if taken < 0:
        raise OSError(number, os.strerror(number))
    return taken


def user() -> dict[str, Any]:
    """Returns the worker's user, and proof that it can work: its files in /proc, those of a subprocess."""
    return {
        "uid": list(os.getresuid()),
        "gid": list(os.getresgid()),
        "groups": os.getgroups(),
        "files": bool(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "environ": _try(lambda: bool(Path("/proc/self/environ").read_bytes())),
        "environ of a child": subprocess.run(["/bin/cat", "/proc/self/environ"], check=True, capture_output=True).stdout
        != b"",
        "said": subprocess.run(["/bin/echo", "hello"], check=True, capture_output=True, text=True).stdout,
        "oom": Path("/proc/self/oom_score_adj").read_text().strip(),
    }


def _become_root() -> str:
    os.setuid(0)
    return "root"


def _signal(pid: int) -> str:
    os.kill(pid, 0)
    return "signalled"


def _try(attempt: Any) -> str:
    try:
        return str(attempt())
    except OSError as error:
        return "denied" if isinstance(error, PermissionError) else repr(error)


def _has(data: bytes, secret: str) -> str:
    return "the secret" if secret.encode() in data else "no secret"


def _read_memory(pid: int, secret: str) -> str:
    maps = Path(f"/proc/{pid}/maps").read_text()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps.splitlines():
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            if "[heap]" in line or "[stack]" in line:
                memory.seek(start)
                if secret.encode() in memory.read(end - start):
                    return "the secret"
    return "no secret"


def _trace(pid: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_ATTACH, pid, None, None) == 0:
        os.kill(pid, signal.SIGCONT)
        return "attached"
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def _no_new_privileges() -> str:
    status = Path("/proc/self/status").read_text()
    return status.partition("NoNewPrivs:")[2].split()[0]
