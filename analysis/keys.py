"""Marks of keys: a sticky key's calls share one coin, so the key counts once in each start copy."""

from typing import Final

LIMIT: Final = 65_536
"""Keys in a map; when there are more, half of the sample is dropped."""

_MASK: Final = 2**64 - 1
_MULTIPLIER: Final = 0x9E3779B97F4A7C15


def second_hash(key_hash: int) -> int:
    """A 32-bit hash of a key's hash (Fibonacci hashing), to sample keys by."""
    return ((key_hash * _MULTIPLIER) & _MASK) >> 32


def is_of_shard(key_hash: int | None, shard: int, shards: int) -> bool:
    """Tells if a key counts on this of several replicas; a call without a key counts where it ends."""
    return key_hash is None or shards <= 1 or (second_hash(key_hash) >> 20) % shards == shard


class KeyMarks:
    """The last step at which each key counted, for at most `LIMIT` keys.

    A key's hash must be independent of its bucket in the split; otherwise the sample would prefer a version.
    """

    __slots__ = ("_floor", "_halvings", "_is_sampled", "_last", "_sample", "_shard", "_shards")

    def __init__(self, floor: int = 0, shard: int = 0, shards: int = 1) -> None:
        self._last: dict[int, int] = {}
        self._floor = floor - 1
        self._halvings = 0
        self._sample = 0
        self._shard = shard
        self._shards = shards
        self._is_sampled = shards > 1

    def __len__(self) -> int:
        return len(self._last)

    def first_copy(self, key_hash: int | None, step: int) -> int:
        """Returns the first start copy in which this key does not count yet, or -1 if it counts in all of them.

        The event then counts in the copies from there up to `step`.
        """
        if key_hash is None:
            return 0
        if self._is_sampled and self._is_left_out(key_hash):
            return -1
        last = self._last.get(key_hash, self._floor)
        return -1 if last >= step else last + 1

    def mark(self, key_hash: int | None, step: int) -> None:
        """Records that the key has counted at `step`."""
        if key_hash is not None:
            self._last[key_hash] = step
            if len(self._last) > LIMIT:
                self._halve()

    def _is_left_out(self, key_hash: int) -> bool:
        hashed = second_hash(key_hash)
        return bool(hashed & self._sample) or (hashed >> 20) % self._shards != self._shard

    def _halve(self) -> None:
        self._halvings += 1
        self._sample = (1 << self._halvings) - 1
        self._is_sampled = True
        self._last = {key: step for key, step in self._last.items() if not second_hash(key) & self._sample}
