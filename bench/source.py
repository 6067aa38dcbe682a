"""The sources of a Poolshift that is installed compiled: what compiling gains is the difference to them."""

import shutil
import sys
from pathlib import Path

import poolshift
from app.version import IS_COMPILED
from common import own_process

_LIBRARIES = shutil.ignore_patterns("*.so", "__pycache__")


def folder_of_sources(directory: Path) -> Path:
    """Returns the folder of the packages as they were written; `directory` gets a copy if some are compiled here."""
    if not IS_COMPILED:
        return own_process.ROOT
    copy = directory / "sources"
    shutil.copytree(own_process.ROOT, copy, ignore=_LIBRARIES)
    shutil.copytree(Path(poolshift.__file__).parent, copy / "poolshift", ignore=_LIBRARIES)
    return copy


def command(*arguments: str) -> list[str]:
    """The `poolshift` command on whatever packages come first in `PYTHONPATH`."""
    return [sys.executable, "-P", "-c", "from _poolshift_service import run; run()", *arguments]
