"""Follows a mounted file: written in place, moved over, or swapped by a symlink as Kubernetes does it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

from config import mounted_file

LOOK_AGAIN_MS = 1000
"""Where no event arrives (some network file systems send none), it is looked at this often."""
SETTLED_MS = 50
"""Events that follow each other so closely are one."""


async def contents(path: Path) -> AsyncIterator[bytes | OSError]:
    """What `path` holds, now and after each time that it may have changed; or why it cannot be read.

    The same contents may come more than once: the caller compares.
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
