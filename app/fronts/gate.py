"""Memory that the service shares with its fronts: what is in force, and who has workers to spare or calls that wait.

The service alone writes the epoch: fronts run calls by themselves only with what they were granted in the epoch that is
in force. A front reads it before each call, so a change that closes the gate is in force on all fronts at once.
"""

import mmap
import os
from typing import Final

_EPOCH: Final = 0
_IDLE_AT_SERVICE: Final = 1
_LENDS: Final = 2
_WORDS_OF_SERVICE: Final = 3
_WAITING: Final = 0
_IDLE: Final = 1
_OLDEST: Final = 2
_WORDS_OF_FRONT: Final = 3
_WORD_BYTES: Final = 8


class Gate:
    """The shared words, each of eight bytes, which are read and written as a whole."""

    def __init__(self, fd: int, fronts: int) -> None:
        """Takes a descriptor that `new_gate` has made; it may be closed afterwards."""
        self._fronts = fronts
        self._words = memoryview(mmap.mmap(fd, _size(fronts))).cast("Q")

    def __repr__(self) -> str:
        return f"<Gate epoch={self.epoch} words={list(self._words)}>"

    @property
    def epoch(self) -> int:
        """The epoch in force."""
        epoch: int = self._words[_EPOCH]
        return epoch

    def close(self) -> None:
        """Begins another epoch: what was granted before holds no more."""
        self._words[_EPOCH] += 1

    def service_has_idle(self, idle: int) -> None:
        """Notes the workers that are idle at the service."""
        self._words[_IDLE_AT_SERVICE] = idle

    @property
    def lends(self) -> bool:
        """True if a front whose calls wait will get a worker."""
        return bool(self._words[_LENDS])

    def set_lends(self, *, lends: bool) -> None:
        """Notes if fronts get workers."""
        self._words[_LENDS] = int(lends)

    def front_has(self, front: int, waiting: int, idle: int, oldest_us: int = 0) -> None:
        """Notes the calls that wait at a front (counted from 0), and its idle workers.

        `oldest_us` is when the call that waits longest began, by the clock of `time.perf_counter`, in microseconds. All
        processes of a machine have the same on Linux.
        """
        at = _WORDS_OF_SERVICE + front * _WORDS_OF_FRONT
        self._words[at + _WAITING] = waiting
        self._words[at + _IDLE] = idle
        self._words[at + _OLDEST] = oldest_us

    def waiting_at(self, front: int) -> int:
        """The calls that wait at a front."""
        waiting: int = self._words[_WORDS_OF_SERVICE + front * _WORDS_OF_FRONT + _WAITING]
        return waiting

    def idle_at(self, front: int) -> int:
        """The idle workers of a front."""
        idle: int = self._words[_WORDS_OF_SERVICE + front * _WORDS_OF_FRONT + _IDLE]
        return idle

    def has_idle_but(self, front: int) -> bool:
        """Tells if the service or another front has an idle worker."""
        if self._words[_IDLE_AT_SERVICE]:
            return True
        return any(self.idle_at(other) for other in range(self._fronts) if other != front)

    def others_wait(self, front: int) -> bool:
        """Tells if calls wait at another front."""
        return any(self.waiting_at(other) for other in range(self._fronts) if other != front)

    def others_wait_since(self, front: int, moment_us: int) -> bool:
        """Tells if a call waits at another front that began at a moment or before, by the clock of `front_has`."""
        return any(
            self.waiting_at(other) and self.oldest_us_at(other) <= moment_us
            for other in range(self._fronts)
            if other != front
        )

    def oldest_us_at(self, front: int) -> int:
        """The moment at which the call began that waits longest at a front, as `front_has` has it."""
        oldest_us: int = self._words[_WORDS_OF_SERVICE + front * _WORDS_OF_FRONT + _OLDEST]
        return oldest_us


def new_gate(fronts: int) -> int:
    """Makes the memory for so many fronts, and returns its descriptor. All words are 0."""
    fd = os.memfd_create("poolshift-gate", os.MFD_CLOEXEC)
    os.ftruncate(fd, _size(fronts))
    return fd


def _size(fronts: int) -> int:
    return (_WORDS_OF_SERVICE + fronts * _WORDS_OF_FRONT) * _WORD_BYTES
