"""Tells which Python a pool's workers run on, and which packages they find.

    python -P -m poolshift.worker.describe

The service's side is `pools.process.interpreter`, which reads one `Description` from standard output.
"""

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec


class Description(msgspec.Struct, frozen=True):
    """An interpreter, as a worker on it sees it."""

    python: str
    """Version of the interpreter, such as `3.13.5`."""
    executable: str
    machine: str
    """The processor that it was built for, such as `x86_64`."""
    packages: dict[str, str]
    """The version of each distribution on a worker's path, by its name in lower case with dashes."""


def describe(path: Sequence[str]) -> Description:
    """Describes the interpreter that runs this, with the packages that are found on `path`."""
    packages: dict[str, str] = {}
    for folder in path:
        for name, version in _distributions(Path(folder)):
            packages.setdefault(name.lower().replace("_", "-").replace(".", "-"), version)
    return Description(platform.python_version(), sys.executable, platform.machine(), packages)


def _distributions(folder: Path) -> Iterator[tuple[str, str]]:
    """Finds the name and the version of each distribution in a folder of the path.

    The name of a `dist-info` folder has both (https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
    To read all files, as `importlib.metadata` does, takes ten times the time.
    """
    try:
        entries = list(folder.iterdir())
    except OSError:  # a zip archive, or nothing
        return
    for entry in entries:
        stem, _, kind = entry.name.rpartition(".")
        if kind == "dist-info" and (entry / "METADATA").is_file():  # a removal may have left the folder
            name, _, version = stem.partition("-")
            yield name, version
        elif kind == "egg-info":
            yield from _read_egg(entry)


def _read_egg(path: Path) -> Iterator[tuple[str, str]]:
    """Reads the fields of an installation of the older kind, whose name may lack the version."""
    try:
        metadata = (path / "PKG-INFO" if path.is_dir() else path).read_text(errors="replace")
    except OSError:
        return
    fields: dict[str, str] = {}
    for line in metadata.split("\n\n", 1)[0].split("\n"):
        field, _, value = line.partition(":")
        fields.setdefault(field, value.strip())
    if "Name" in fields:
        yield fields["Name"], fields.get("Version", "")


if __name__ == "__main__":
    os.write(1, msgspec.json.encode(describe(sys.path)))
