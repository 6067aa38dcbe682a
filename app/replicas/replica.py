"""One replica among those of its machine: it tells the others what it has changed, and hears what they have.

Before a call is decided, the replica looks if it is behind: if another has raised a stamp since it last caught up. What
the others tell of the rollout it acts on at once; all else it reads from the database and the file of keys.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from socket import socket
from typing import Final

import structlog

from app.replicas.mutex import Mutex
from app.replicas.page import MAX_NEWS_BYTES, Page, Row, State
from common.log_once import LogOnce
from common.shared_run import SharedRun
from routing.errors import StoreUnavailable
from routing.rollout.flag import RolloutFlag
from routing.rollout.news import News, decode_news, encode_news
from store.sqlite.share import SqliteShare

BEAT_S: Final = 0.2
"""Time between two signs of life, in seconds."""
SILENT_AFTER_S: Final = 0.8
"""A replica that has given no sign of life for so long, in seconds, is called silent."""
CATCH_UP_S: Final = 1.0
"""The longest time that a call waits for the database to tell what others have changed, in seconds."""

_log = structlog.stdlib.get_logger("poolshift.replicas")


class Presence(StrEnum):
    """The state of a replica as all others see it, without a question to it."""

    SERVING = "serving"
    STARTING = "starting"
    SILENT = "silent"
    """No sign of life has come for `SILENT_AFTER_S`."""
    STOPPING = "stopping"
    GONE = "gone"
    """The process has died, and another has not taken its place yet."""


_PRESENCE_OF: Final = {
    State.GONE: Presence.GONE,
    State.STARTING: Presence.STARTING,
    State.OPEN: Presence.STARTING,
    State.SERVING: Presence.SERVING,
    State.STOPPING: Presence.STOPPING,
}


@dataclass(frozen=True, slots=True)
class Machine:
    """The things that the supervisor hands to each replica."""

    name: str
    """Tells this machine's replicas from all others that use its database."""
    page: Page
    wakers: Sequence[int]
    """An eventfd of each replica: whoever writes to it wakes the replica."""
    peers: Sequence[socket]
    """A listening socket of each replica, for the others' questions."""
    token: str
    """The secret that a question among replicas proves its origin by."""
    share: SqliteShare | None
    """The claim on the SQLite file that all replicas use."""
    listeners: Sequence[socket]
    """The service's address, which all replicas accept from."""
    rotating: Mutex
    """Held by the replica that rotates, or takes a rotation back."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a replica that others' changes concern."""

    flag: RolloutFlag
    follow_changes: Callable[[], Awaitable[None]]
    """Reads all that the database has been told up to now. Raises StoreUnavailable."""
    read_keys: Callable[[], Awaitable[None]] | None
    """Reads the file of API keys, if there is one."""


def part_of(replica: "Replica | None") -> Callable[[int], int]:
    """Returns the function that tells a replica's part of what is there for the whole machine.

    It is 1 at least, unless there is nothing.
    """

    def part(total: int) -> int:
        if replica is None:
            return total
        return max(min(total, 1), total // replica.count + (replica.index < total % replica.count))

    return part


class Replica:
    """The replica that this process is."""

    def __init__(self, machine: Machine, index: int) -> None:
        self.machine = machine
        self.index = index
        self.id = f"{index}@{machine.name}-{secrets.token_hex(4)}"
        """The name of this process among all replicas that use the database. Its successor has another."""
        self._page = machine.page
        self._stamps = machine.page.stamps
        self._followed = bytearray(len(self._stamps))
        """The stamps that this replica has caught up with: none of those that it finds."""
        self._heard = bytearray(len(machine.page.rollout_stamps))
        """The stamps of the news that this replica has heard."""
        self._keys_read = machine.page.row(Row.KEYS)
        self._parts: Parts | None = None
        self._woken = asyncio.Event()
        self._catching_up = SharedRun(self._catch_up)
        self._log_once = LogOnce("what other replicas have changed cannot be read; serving on with what is known")

    def __repr__(self) -> str:
        return f"<Replica {self.index} of {self.count} {self.state.name.lower()} is_behind={self.is_behind}>"

    @property
    def count(self) -> int:
        """The number of replicas of this machine."""
        return self._page.count

    @property
    def is_first(self) -> bool:
        """Tells if no other replica of this machine has run yet. None starts before this one is `State.OPEN`."""
        return not any(pid for index, pid in enumerate(self._page.row(Row.PID)) if index != self.index)

    @property
    def state(self) -> State:
        """The stage of this replica's life."""
        return State(self._page.get(Row.STATE, self.index))

    def place_of(self, replica_id: str) -> int | None:
        """Tells which replica of this machine has, or has had, an id; None for those of other machines."""
        index, _, rest = replica_id.partition("@")
        return int(index) if rest.startswith(f"{self.machine.name}-") else None

    def is_now(self, state: State) -> None:
        """Shows the others what this replica does from now on."""
        self._page.set(Row.STATE, self.index, state)

    def presence(self, index: int) -> Presence:
        """Tells what this replica sees of another, or of itself. One that starts gives no sign of life yet."""
        presence = _PRESENCE_OF[State(self._page.get(Row.STATE, index))]
        is_heard = index == self.index or self._page.silence_s(index) < SILENT_AFTER_S
        return presence if is_heard or presence in (Presence.STARTING, Presence.GONE) else Presence.SILENT

    # --- what it tells

    def has_announced(self) -> None:
        """Tells the others that the database has something new."""
        self._raise(Row.CHANGES)

    def has_read_keys(self) -> None:
        """Tells the others that the file of keys has changed."""
        self._raise(Row.KEYS)

    def tell(self, news: News) -> None:
        """Tells the others of a rollout that is in force."""
        data = encode_news(news)
        if len(data) <= MAX_NEWS_BYTES:  # a longer one, of a rotation, they read from the database
            self._page.put_news(self.index, data)
            place = self._page.place_among_stamps(Row.ROLLOUT, self.index)
            self._heard[place] = self._stamps[place]
            self._has_raised(Row.ROLLOUT)

    def _raise(self, row: Row) -> None:
        self._page.set(row, self.index, self._page.get(row, self.index) + 1)
        self._has_raised(row)

    def _has_raised(self, row: Row) -> None:
        """Wakes the others. This replica is no more behind than before: its own stamp alone counts as followed."""
        place = self._page.place_among_stamps(row, self.index)
        self._followed[place] = self._stamps[place]
        self._wake_others()

    def _wake_others(self) -> None:
        for index, waker in enumerate(self.machine.wakers):
            if index != self.index:
                with suppress(BlockingIOError):  # it has been woken so often, and has not looked yet
                    os.eventfd_write(waker, 1)

    # --- what it hears

    @property
    def is_behind(self) -> bool:
        """Tells if others may have changed something that this replica has not caught up with."""
        return self._stamps != self._followed

    def hear(self) -> None:
        """Acts on what others have told of the rollout. It asks nobody and waits for nothing."""
        if self._page.rollout_stamps == self._heard or self._parts is None:
            return
        before, self._heard = self._heard, bytearray(self._page.rollout_stamps)
        for index in range(self.count):
            place = self._page.place_among_stamps(Row.ROLLOUT, index)
            if before[place] != self._heard[place]:
                self._parts.flag.hear(decode_news(self._page.news(index)))

    async def catch_up(self) -> None:
        """Acts on all that others had changed before this was called.

        While the database does not answer, calls are served with what is known.
        """
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self._catching_up()
        except (StoreUnavailable, TimeoutError) as error:
            self._log_once.warn(str(error) or "the database does not answer in time")
        else:
            self._log_once.clear()

    async def _catch_up(self) -> None:
        parts, stamps = self._parts, bytes(self._stamps)
        if parts is None:
            return
        keys = self._page.row(Row.KEYS)
        self.hear()
        await parts.follow_changes()
        if keys != self._keys_read and parts.read_keys is not None:
            await parts.read_keys()
            self._keys_read = keys
        self._followed[:] = stamps

    # --- its life

    def begin(self, parts: Parts) -> None:
        """Follows the others from now on."""
        self._parts = parts
        parts.flag.tell = self.tell

    async def run(self) -> None:
        """Gives signs of life, and catches up when another replica wakes this one, until it is cancelled."""
        loop = asyncio.get_running_loop()
        waker = self.machine.wakers[self.index]
        loop.add_reader(waker, self._has_been_woken, waker)
        self._beat()
        try:
            while True:
                if self.is_behind:
                    await self.catch_up()
                self._woken.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await self._woken.wait()
        finally:
            loop.remove_reader(waker)

    def _beat(self) -> None:
        """Gives signs of life by a timer of its own, so that no wait for the database looks like silence."""
        self._page.beat(self.index)
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _has_been_woken(self, waker: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(waker)
        self.hear()
        self._woken.set()
