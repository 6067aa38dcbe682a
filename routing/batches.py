"""What is counted in memory goes to the store in batches, so that calls go on between two of them."""

from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import TypeVar

MAX_BATCH = 500
_Use = TypeVar("_Use")


async def write_in_batches(uses: dict[str, _Use], write: Callable[[Mapping[str, _Use]], Awaitable[None]]) -> None:
    """Hands `uses` to `write`, neighbours in the store together, and takes out of them what has been written.

    Raises whatever `write` does; what is left in `uses` then is not written.
    """
    keys = iter(sorted(uses))
    while batch := {key: uses[key] for key in islice(keys, MAX_BATCH)}:
        await write(batch)
        for key in batch:
            del uses[key]
