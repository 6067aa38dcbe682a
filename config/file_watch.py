"""Follows a mounted file: written in place, moved over, or swapped by a symlink as Kubernetes does it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

from config import mounted_file

LOOK_AGAIN_MS = 1000
"""The interval between two reads without an event: some network file systems send none."""
SETTLED_MS = 50
"""The time within which events count as one."""


async def contents(path: Path) -> AsyncIterator[bytes | OSError]:
    """Yields the content of `path`, now and after each possible change, or the error of reading it.

    The same content may come more than once: the caller compares.
    """
    yield await asyncio.to_thread(mounted_file.look, path)
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
                yield await asyncio.to_thread(mounted_file.look, path)
        except FileNotFoundError as error:
            yield error  # the folder is gone; `awatch` has waited before it said so
