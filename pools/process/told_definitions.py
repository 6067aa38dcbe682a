"""The definitions that a worker has been told, by the numbers that its calls name."""

from typing import Final

import msgspec

from poolshift.worker.definitions import Definition
from poolshift.worker.framing import lengths_of_two
from poolshift.worker.messages import Run

MAX_TOLD: Final = 1000
MAX_TOLD_BYTES: Final = 16 * 1024 * 1024
"""Limits of the definitions that a worker keeps loaded, and of their JSON together. Beyond, it drops them all."""

_ID: Final = b'""'
"""The place of a call's id in the message that its worker gets."""
_encode: Final = msgspec.json.Encoder().encode


class Told:
    """A definition that a worker has been told, or is about to be."""

    def __init__(self, number: int, size: int, *, is_loaded: bool) -> None:
        """Takes the `size` of its JSON, in bytes, which counts once it is added."""
        self.number = number
        self.size = size
        self.is_loaded = is_loaded
        """Set once the worker has loaded it."""
        self.is_concurrent = False
        """Set if calls of it run beside others on the worker."""
        self._program_id: str | None = None
        self._before_id = self._behind_id = b""
        """The message about the last program's calls, of which each has another id."""

    def run_frame(self, program_id: str, execution_id: str, inputs: bytes | msgspec.Raw) -> bytes:
        """The frame of a call that has nothing beside its small inputs, of a definition that the worker was told."""
        if program_id != self._program_id:
            self._program_id = program_id
            message = _encode(Run(id="", program_id=program_id, number=self.number))
            self._before_id, self._behind_id = message.split(_ID, 1)
        encoded_id = _encode(execution_id)
        message_size = len(self._before_id) + len(encoded_id) + len(self._behind_id)
        lengths = lengths_of_two(message_size, len(inputs))
        return b"".join((lengths, self._before_id, encoded_id, self._behind_id, inputs))


class ToldDefinitions:
    """Numbers the definitions that one worker knows. Those that it does not know go along with their first call."""

    def __init__(self) -> None:
        self._told: dict[Definition, Told] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._told)

    def find(self, definition: Definition) -> Told | None:
        """Finds a definition that the worker knows."""
        return self._told.get(definition)

    def new(self, definition: Definition) -> Told:
        """Numbers a definition that the worker does not know; 0 makes the worker drop all others."""
        size = len(_encode(definition))
        is_full = len(self._told) >= MAX_TOLD or self._bytes + size > MAX_TOLD_BYTES
        return Told(0 if is_full else len(self._told), size, is_loaded=False)

    def add(self, definition: Definition, told: Told) -> None:
        """Notes that the worker has got a new definition."""
        if told.number == 0:
            self._told.clear()
            self._bytes = 0
        self._told[definition] = told
        self._bytes += told.size

    def loaded(self, definition: Definition, *, is_concurrent: bool) -> None:
        """Notes that the worker has loaded a definition, and if calls of it run beside others there."""
        told = self._told.get(definition)
        if told is not None:
            told.is_loaded, told.is_concurrent = True, is_concurrent
