"""Flushes counts from memory to the store in batches, so that calls go on between two batches."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

MAX_BATCH = 1000
_Use = TypeVar("_Use")


class Used(Protocol[_Use]):
    """A program or a session with its use since the last flush."""

    key: str
    """The primary key in the store."""
    is_dirty: bool
    """True while there is such use; the object is on the list of dirty ones then."""

    def take_use(self) -> _Use:
        """Returns the use to write, and counts from 0 again."""
        ...

    def give_back_use(self, use: _Use) -> None:
        """Takes back a use that could not be written."""
        ...


async def write_in_batches(unwritten: list[Used[_Use]], write: Callable[[Mapping[str, _Use]], Awaitable[None]]) -> None:
    """Takes all objects off the list and passes their uses to `write`, in batches and in the order of their keys.

    Raises whatever `write` raises; the objects that are still dirty are on the list again then.
    """
    waiting = sorted(unwritten, key=_key)[::-1]  # of one key, the object that was used first comes first
    unwritten.clear()
    try:
        while batch := _next_batch(waiting):
            await _write(batch, write, unwritten)
    finally:
        unwritten += waiting


def _next_batch(waiting: list[Used[_Use]]) -> list[Used[_Use]]:
    """Takes the next batch off `waiting`, with no key twice: a program that was read again is there twice."""
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
