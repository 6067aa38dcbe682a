"""What is counted in memory goes to the store in batches, so that calls go on between two of them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

MAX_BATCH = 1000
_Use = TypeVar("_Use")


class Used(Protocol[_Use]):
    """A program or a session, with what the store does not know of its use yet."""

    key: str
    """Its own in the store."""
    is_dirty: bool
    """Whether there is any such use, and it is on the list of those to be written."""

    def take_use(self) -> _Use:
        """What is to be written; it counts from nothing again."""
        ...

    def give_back_use(self, use: _Use) -> None:
        """It could not be written."""
        ...


async def write_in_batches(unwritten: list[Used[_Use]], write: Callable[[Mapping[str, _Use]], Awaitable[None]]) -> None:
    """Takes all off the list and hands their uses to `write`, by key, in the order of the keys: neighbours together.

    Raises whatever `write` does; those that are still to be written are on the list again then.
    """
    waiting = sorted(unwritten, key=_key, reverse=True)
    unwritten.clear()
    try:
        while batch := _next_batch(waiting):
            await _write(batch, write, unwritten)
    finally:
        unwritten += waiting


def _next_batch(waiting: list[Used[_Use]]) -> list[Used[_Use]]:
    """Takes the next ones off the end of `waiting`, no two of one key: what was read anew is there a second time."""
    batch: dict[str, Used[_Use]] = {}
    second = []
    while waiting and len(batch) < MAX_BATCH:
        one = waiting.pop()
        if one.is_dirty and batch.setdefault(one.key, one) is not one:
            second.append(one)
    waiting += second
    return list(batch.values())


async def _write(
    batch: list[Used[_Use]], write: Callable[[Mapping[str, _Use]], Awaitable[None]], unwritten: list[Used[_Use]]
) -> None:
    uses = {}
    for one in batch:
        one.is_dirty = False
        uses[one.key] = one.take_use()
    try:
        await write(uses)
    except BaseException:
        for one in batch:
            one.give_back_use(uses[one.key])
            if not one.is_dirty:  # else it has been used meanwhile, and is on the list
                one.is_dirty = True
                unwritten.append(one)
        raise


def _key(one: Used[_Use]) -> str:
    return one.key
