"""Starts modules of the service's own as processes, whatever is in `PYTHONPATH`."""

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the service's packages."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of the service's own modules; it takes `environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of such a process: with the service's packages on its path, and no user's modules."""
    return {**inherited, "PYTHONPATH": str(ROOT)}
