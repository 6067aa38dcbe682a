"""Follows a mounted file: written in place, moved over, or swapped by a symlink as Kubernetes does it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import Change, awatch

from config import mounted_file

LOOK_AGAIN_MS = 1000
"""The interval between two reads without an event: some network file systems send none."""
SETTLED_MS = 50
"""The time within which events count as one."""


async def contents(path: Path) -> AsyncIterator[bytes | OSError]:
    """Yields the content of `path`, now and after each possible change, or the error of reading it.

    The same content may come more than once: the caller compares.
    """
    file = WatchedFile(path)
    yield await asyncio.to_thread(file.look)
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
                watch_filter=file.is_concerned,
            ):
                yield await asyncio.to_thread(file.look)
        except FileNotFoundError as error:
            yield error  # the folder is gone; `awatch` has waited before it said so


class WatchedFile:
    """A file, and the names in its folder that lead to its content: its own, and those of the links behind it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = {path.name}
        self._looked_at = 0.0

    def look(self) -> bytes | OSError:
        """Reads the content, or returns the error of reading it."""
        self._names = _linked_names(self._path)
        self._looked_at = time.monotonic()
        return mounted_file.look(self._path)

    def is_concerned(self, _: Change, changed: str) -> bool:
        """Decides if a change in the folder is a reason to read the file again.

        Changes of others, such as a log that grows in the same folder, are none. In a busy folder `awatch` does not
        come to its timeout, so that each of them is one if the last look is as long ago.
        """
        return Path(changed).name in self._names or time.monotonic() - self._looked_at >= LOOK_AGAIN_MS / 1000


def _linked_names(path: Path) -> set[str]:
    names: set[str] = set()
    name = path.name
    while name not in names:
        names.add(name)
        try:
            name = (path.parent / name).readlink().parts[0]
        except (OSError, IndexError):  # not a link
            break
    return names
