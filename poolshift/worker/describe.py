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
        name = distribution.metadata["Name"]
        if name:  # a folder that a removal has left has none
            packages.setdefault(name.lower().replace("_", "-").replace(".", "-"), distribution.version)
    return Description(platform.python_version(), sys.executable, platform.machine(), packages)


if __name__ == "__main__":
    os.write(1, msgspec.json.encode(describe()))
