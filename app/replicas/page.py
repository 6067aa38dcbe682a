"""Memory that the replicas of one machine share: who is there, and what has changed.

Each word is written by one process alone, so nobody waits for another, even for one that is stopped. A stamp is a word
that a replica raises after it has changed something and before it answers; the stamps of all replicas lie side by side,
so that one comparison tells if any of them has risen. The news of the rollout goes along, since it must be in force
without a question to the database.
"""

import mmap
import os
import sys
import time
from enum import IntEnum
from typing import Final

MAX_NEWS_BYTES: Final = 8 * 1024
"""The most bytes that a replica's news of the rollout may have."""
_WORD: Final = 8
_BUFFERS: Final = 2
"""A replica writes its news where its last ones are not, and then raises its stamp: no reader sees a half of them."""


class State(IntEnum):
    """The stages of a replica's life."""

    GONE = 0
    STARTING = 1
    OPEN = 2
    """The database is open, and what the last run left there is seen to: others may start."""
    SERVING = 3
    STOPPING = 4


class Row(IntEnum):
    """A word of each replica."""

    PID = 0
    STATE = 1
    BEAT = 2
    """The time of its last sign of life, in milliseconds of the clock that all processes share."""
    CONNECTIONS = 3
    ROLLOUT = 4
    """Stamps. They come last, side by side."""
    CHANGES = 5
    KEYS = 6


class Page:
    """The shared memory. The supervisor makes it, and its forks inherit it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._news_at = len(Row) * count * _WORD
        size = self._news_at + count * _BUFFERS * (_WORD + MAX_NEWS_BYTES)
        fd = os.memfd_create("poolshift-replicas", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self._memory = memoryview(mmap.mmap(fd, size))
        finally:
            os.close(fd)
        self._words = self._memory[: self._news_at].cast("q")
        self.stamps = self._memory[Row.ROLLOUT * count * _WORD : self._news_at]
        """The stamps of all replicas. Compare them with bytes that were copied before."""
        self.rollout_stamps = self.stamps[: count * _WORD]

    def __repr__(self) -> str:
        rows = " ".join(f"{row.name.lower()}={self.row(row)}" for row in Row if row is not Row.BEAT)
        return f"<Page {rows}>"

    def row(self, row: Row) -> list[int]:
        """The words of all replicas."""
        return self._words[row * self.count : (row + 1) * self.count].tolist()

    def place_among_stamps(self, row: Row, replica: int) -> slice:
        """The bytes of a replica's stamp in `stamps`."""
        start = ((row - Row.ROLLOUT) * self.count + replica) * _WORD
        return slice(start, start + _WORD)

    def get(self, row: Row, replica: int) -> int:
        """A word of one replica."""
        return self._words[row * self.count + replica]

    def set(self, row: Row, replica: int, value: int) -> None:
        """Writes a word; the replica itself calls this, or the supervisor while it has no process."""
        self._words[row * self.count + replica] = value

    def beat(self, replica: int) -> None:
        """Gives a sign of life."""
        self.set(Row.BEAT, replica, now_ms())

    def silence_s(self, replica: int) -> float:
        """The time since a replica's last sign of life, in seconds."""
        return (now_ms() - self.get(Row.BEAT, replica)) / 1000

    # --- the news of the rollout

    def put_news(self, replica: int, news: bytes) -> None:
        """Writes the newest that a replica has to say of the rollout, and raises its stamp.

        Raises:
            ValueError: it is longer than `MAX_NEWS_BYTES`.
        """
        if len(news) > MAX_NEWS_BYTES:
            raise ValueError(f"news of {len(news)} bytes")
        stamp = self.get(Row.ROLLOUT, replica) + 1
        start = self._news_start(replica, stamp)
        self._memory[start : start + _WORD] = len(news).to_bytes(_WORD, sys.byteorder)
        self._memory[start + _WORD : start + _WORD + len(news)] = news
        self.set(Row.ROLLOUT, replica, stamp)

    def news(self, replica: int) -> bytes:
        """The newest that a replica has had to say, which has raised its stamp."""
        while True:
            stamp = self.get(Row.ROLLOUT, replica)
            start = self._news_start(replica, stamp)
            size = int.from_bytes(self._memory[start : start + _WORD], sys.byteorder)
            news = bytes(self._memory[start + _WORD : start + _WORD + min(size, MAX_NEWS_BYTES)])
            if self.get(Row.ROLLOUT, replica) == stamp:
                return news

    def _news_start(self, replica: int, stamp: int) -> int:
        return self._news_at + (replica * _BUFFERS + stamp % _BUFFERS) * (_WORD + MAX_NEWS_BYTES)


def now_ms() -> int:
    """The time of the clock that all processes of a machine share, in milliseconds."""
    return time.monotonic_ns() // 1_000_000
