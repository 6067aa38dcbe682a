"""The machine and the versions of a run."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from app.version import IS_COMPILED
from bench.optimised import is_optimised

_PACKAGES = (
    "poolshift", "mosec", "litserve", "fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "msgspec", "mmh3",
    "prometheus-client",
)  # fmt: skip
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Machine:
    """Everything that a figure depends on."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    commit: str | None
    compiled: bool
    """True if Poolshift ran compiled, as it does in its image."""
    began_at: str
    load_average: tuple[float, float, float]
    """When the run began: at a core's worth or more, somebody else was using the machine."""
    versions: Mapping[str, str]


def this_machine() -> Machine:
    """As it is now."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{_distribution()}, {platform.system()} {platform.release()}",
        python=f"{platform.python_version()}, {'optimised' if is_optimised() else 'built without optimisation'}",
        commit=_commit(),
        compiled=IS_COMPILED,
        began_at=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=os.getloadavg(),
        versions=_versions(),
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _commit() -> str | None:
    """The short id, with a star where files differ from it; None outside of a checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(_ROOT), "describe", "--always", "--dirty=*", "--abbrev=10", "--exclude=*"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return described.stdout.strip() or None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass  # a peer that is not installed
    for tool, command in (("wrk", ["wrk", "--version"]), ("h2load", ["h2load", "--version"])):
        printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
        found[tool] = printed.splitlines()[0].split("Copyright")[0].removeprefix(tool).strip()
    return found
