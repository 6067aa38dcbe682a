"""The programs that tests run: those that every machine has, and those of a group that a machine may lack."""

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TABLE: Final = ROOT / "make/tools.txt"

EVERYWHERE: Final = frozenset("bash cp echo env make prlimit setpriv sh sleep true uname unshare useradd".split())
"""Programs of a bare Debian with make."""

BRING_THEIR_OWN: Final = frozenset({"ship", "clients"})
"""Groups whose programs a target of make installs for them (`make ship-tools`, npm)."""

_OURS: Final = (Path(sys.prefix), ROOT, Path(tempfile.gettempdir()).resolve(), Path("/proc/self"))
"""Folders of programs that the environment or a test has made."""
_PYTHON: Final = re.compile(r"python[\d.]*")
_SHELLS: Final = frozenset({"bash", "sh"})


def _read_table() -> Iterator[tuple[str, str]]:
    for line in TABLE.read_text().splitlines():
        if not line.startswith("#"):
            name, group, *_ = line.split()
            yield name, group


GROUP_OF: Final = dict(_read_table())
"""The group of each program or library that a machine may lack, which is the marker of the tests that need it."""


def is_there(name: str) -> bool:
    """Tells if the machine has a program, or a library with the name of its file."""
    if ".so." not in name:
        return shutil.which(name) is not None
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def tool(name: str) -> str:
    """Returns the path of a program that a machine may lack; fails a test without the marker of its group."""
    check_groups([name], running.groups or ())
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is missing, though the test has its marker", pytrace=False)
    return path


class _Running:
    """The test that runs."""

    groups: frozenset[str] | None = None
    """Markers of the test; None while no test runs, and pytest and its plugins do what they do."""


running: Final = _Running()


def check_groups(programs: Sequence[str], groups: Collection[str]) -> None:
    """Fails a test that runs programs of a group without its marker."""
    for program in programs:
        group = GROUP_OF.get(program)
        if group is not None and group not in groups:
            pytest.fail(f"a machine may lack {program}: mark the test with `{group}` ({TABLE.relative_to(ROOT)})")


def check_spawn(executable: str, arguments: Sequence[str], groups: frozenset[str]) -> None:
    """Fails a test that runs a program which its machine may lack and no marker of it names."""
    path = Path(executable)
    if groups & BRING_THEIR_OWN or any(path.is_relative_to(folder) for folder in _OURS) or _PYTHON.fullmatch(path.name):
        return
    words = re.split(r"[^\w-]+", " ".join(arguments)) if path.name in _SHELLS else [path.name, *arguments]
    check_groups(words, groups)
    if path.name not in EVERYWHERE and path.name not in GROUP_OF:
        pytest.fail(f"{path.name} is no program of a bare Debian: give it a row in {TABLE.relative_to(ROOT)}")


def watch_spawns() -> None:
    """Checks each program that the tests' process starts, from now on."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen" and running.groups is not None:
        executable, command = arguments[:2]
        check_spawn(os.fsdecode(executable), [os.fsdecode(one) for one in command], running.groups)  # type: ignore[arg-type,attr-defined]
