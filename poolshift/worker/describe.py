"""Tells which Python a pool's workers run on, and which packages they find.

    python -P -m poolshift.worker.describe

The service's side is `pools.process.interpreter`, which reads one `Description` from standard output.
"""

import os
import platform
import sys
from importlib.metadata import distributions

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


def describe() -> Description:
    """Describes the interpreter that runs this."""
    packages: dict[str, str] = {}
    for distribution in distributions():
        fields = _first_fields(distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "")
        if "Name" in fields:  # a folder that a removal has left has none
            name = fields["Name"].lower().replace("_", "-").replace(".", "-")
            packages.setdefault(name, fields.get("Version", ""))
    return Description(platform.python_version(), sys.executable, platform.machine(), packages)


def _first_fields(metadata: str) -> dict[str, str]:
    """Reads a distribution's name and version, which come before its long fields.

    `Distribution.metadata` parses all of it at each access, which is ten times the time.
    """
    fields: dict[str, str] = {}
    for line in metadata.split("\n"):
        field, _, value = line.partition(":")
        if field in ("Name", "Version"):
            fields[field] = value.strip()
        if not line or len(fields) == 2:
            break
    return fields


if __name__ == "__main__":
    os.write(1, msgspec.json.encode(describe()))
