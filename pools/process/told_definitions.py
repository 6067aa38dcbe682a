"""The definitions that a worker has been told, by the numbers that its calls name."""

from collections.abc import Sequence
from typing import Final

import msgspec

from poolshift.worker.definitions import Definition

MAX_TOLD: Final = 1000
MAX_TOLD_BYTES: Final = 16 * 1024 * 1024
"""Limits of the definitions that a worker keeps loaded, and of their JSON together. Beyond, it drops them all."""

_encoder: Final = msgspec.json.Encoder()


class ToldDefinitions:
    """Numbers the definitions that one worker knows. Those that it does not know go along with their first call."""

    def __init__(self) -> None:
        self._numbers: dict[Definition, int] = {}
        self._bytes = 0
        self._not_loaded: set[Definition] = set()
        """The definitions among them that the worker could not load, or not yet."""

    def __len__(self) -> int:
        return len(self._numbers)

    def entries(self) -> list[tuple[Definition, bool]]:
        """Returns the definitions by their numbers, each with whether the worker has loaded it."""
        return [(definition, definition not in self._not_loaded) for definition in self._numbers]

    @property
    def size(self) -> int:
        """The size of all of them, in bytes of JSON."""
        return self._bytes

    def replace(self, entries: Sequence[tuple[Definition, bool]], size: int) -> None:
        """Takes over what another process has told the worker."""
        self._numbers = {definition: number for number, (definition, _) in enumerate(entries)}
        self._not_loaded = {definition for definition, is_loaded in entries if not is_loaded}
        self._bytes = size

    def number_of(self, definition: Definition) -> int | None:
        """Returns the number of a definition that the worker knows; None for one that it does not."""
        return self._numbers.get(definition)

    def next_number(self, size: int) -> int:
        """Returns the number for a new definition of `size` bytes; 0 makes the worker drop all others."""
        is_full = len(self._numbers) >= MAX_TOLD or self._bytes + size > MAX_TOLD_BYTES
        return 0 if is_full else len(self._numbers)

    def told(self, definition: Definition, number: int, size: int) -> None:
        """Notes that the worker has got a new definition of `size` bytes with its number."""
        if number == 0:
            self._numbers.clear()
            self._not_loaded.clear()
            self._bytes = 0
        self._numbers[definition] = number
        self._not_loaded.add(definition)
        self._bytes += size

    def is_loaded(self, definition: Definition) -> bool:
        """Tells if the worker has loaded a definition that it knows."""
        return definition not in self._not_loaded

    def loaded(self, definition: Definition) -> None:
        """Notes that the worker has loaded a definition."""
        self._not_loaded.discard(definition)


def size_of(definition: Definition) -> int:
    """Returns the bytes of a definition as JSON."""
    return len(_encoder.encode(definition))
