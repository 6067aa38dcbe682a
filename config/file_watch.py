"""Follows a mounted file: written in place, moved over, or swapped by a symlink as Kubernetes does it."""

from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

LOOK_AGAIN_MS = 1000
"""Where no event arrives (some network file systems send none), it is looked at this often."""
SETTLED_MS = 50
"""Events that follow each other so closely are one."""


async def contents(path: Path) -> AsyncIterator[bytes | None]:
    """What `path` holds, now and after each time that it may have changed; None where it cannot be read.

    The same contents may come more than once: the caller compares.
    """
    yield read(path)
    while True:
        try:
            # The folder, not the file: the file may be another one by now.
            async for _ in awatch(
                path.parent,
                step=SETTLED_MS,
                debounce=200,
                rust_timeout=LOOK_AGAIN_MS,
                yield_on_timeout=True,
                recursive=False,
                watch_filter=None,
            ):
                yield read(path)
        except FileNotFoundError:
            yield None  # the folder is gone; `awatch` has waited before it said so


def read(path: Path) -> bytes | None:
    """What `path` holds; None where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
