"""Follows the changes that other replicas write to a shared database.

NOTIFY wakes the follower, or `wake` does. It polls, too, for all that wakes nobody.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from asyncpg.connection import connect
from asyncpg.exceptions import InterfaceError, PostgresError
from sqlalchemy import Row, delete, func, select

from common.background import Background
from common.tasks import TaskOwner
from routing.errors import StoreUnavailable
from store.clock import moment
from store.database import CHANNEL, Database
from store.tables import changes

POLL_INTERVAL_S = 0.5
"""Interval of polling, in seconds: a replica follows a change within a second even if no notification arrives."""
RECONNECT_S = 0.5
KEPT = timedelta(days=1)
"""Time for which a change is kept for replicas that cannot reach the database."""
_log = structlog.stdlib.get_logger("poolshift.store")

Handlers = Mapping[str, Callable[[str], Awaitable[None]]]
"""The reaction to each kind of change, called with the change's reference."""
_ROLLOUT = "rollout"


class Follower:
    """Reads the table of changes from the last position on, for as long as the service runs."""

    def __init__(self, database: Database, background: Background) -> None:
        self._database = database
        self._position = 0
        self._synced_at = time.monotonic()
        self._wake = asyncio.Event()
        self._background = background
        self._tasks: list[asyncio.Task[None]] = []
        self._is_cut_off = False
        self._unknown_kinds: set[str] = set()
        self._handlers: Handlers | None = None
        """None until this replica follows: all that it reads until then is newer than the position."""
        self._reload: Callable[[], Awaitable[None]] = _nothing
        self._rounds = TaskOwner("follower", is_detached=True)
        """A round is a task of its own: a caller that goes away amid it breaks nothing off."""
        self._newest: asyncio.Task[Exception | None] | None = None
        self._next: asyncio.Task[Exception | None] | None = None
        """The round that has not begun to read yet, which all who ask until then share."""

    async def mark(self) -> None:
        """Notes the position of the newest change: everything read from the database from now on includes that change.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        newest = select(func.max(changes.c.seq))
        async with self._database.transaction() as connection:
            is_old = changes.c.at < moment(connection, -KEPT.total_seconds())
            # SQLite numbers a change by the newest one that is there, so that one stays: numbers never go back.
            await connection.execute(delete(changes).where(is_old, changes.c.seq < newest.scalar_subquery()))
            self._position = (await connection.execute(newest)).scalar() or 0

    def start(self, handlers: Handlers, reload: Callable[[], Awaitable[None]]) -> None:
        """Follows until `aclose`.

        `reload` reads everything again, for a replica that was away longer than changes are kept.
        """
        self._handlers, self._reload = handlers, reload
        self._tasks = [self._background.run("follower", self._follow)]
        if self._database.is_postgresql:
            self._tasks.append(self._background.run("notifications", self._listen))

    def wake(self) -> None:
        """Has the changes that are there by now followed at once."""
        self._wake.set()

    async def catch_up(self) -> None:
        """Follows all changes that are committed by now, and waits until they are handled.

        Callers share a round that has not begun to read. No handler may call this. Before `start` it does nothing.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._handlers is None:
            return
        if self._next is None:
            self._next = self._newest = self._rounds.start(self._round(self._newest))
        error = await asyncio.shield(self._next)
        if error is not None:
            raise error

    async def aclose(self) -> None:
        """Stops."""
        for task in self._tasks:
            await self._background.stop(task)
        await self._rounds.aclose()

    @property
    def staleness_s(self) -> float:
        """Time since this replica last knew everything that the database knows, in seconds; 0 while it keeps up."""
        age_s = time.monotonic() - self._synced_at
        return age_s if age_s > 2 * POLL_INTERVAL_S else 0.0

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.catch_up()
            except StoreUnavailable as error:
                if not self._is_cut_off:
                    _log.warning("cut off from the database; serving on with what is known", reason=str(error))
                self._is_cut_off = True
            else:
                if self._is_cut_off:
                    _log.info("caught up with the database")
                self._is_cut_off = False
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wake.wait()

    async def _round(self, before: "asyncio.Task[Exception | None] | None") -> Exception | None:
        """Reads and handles what is new, once the round before has ended; returns the failure of either."""
        if before is not None and not before.done() and (error := await before) is not None:
            self._next = None
            return error
        self._next = None
        try:
            await self._read_and_handle()
        except Exception as error:
            return error
        return None

    async def _read_and_handle(self) -> None:
        read_at = time.monotonic()
        async with self._database.reading() as connection:
            oldest = select(func.min(changes.c.seq)).scalar_subquery().label("oldest")
            query = select(changes, oldest).where(changes.c.seq > self._position).order_by(changes.c.seq)
            news = (await connection.execute(query)).all()
        if news:
            await self._handle_all(news, has_missed=news[0].oldest > self._position + 1 > 1)
        self._synced_at = read_at

    async def _handle_all(self, news: Sequence[Row[Any]], *, has_missed: bool) -> None:
        assert self._handlers is not None
        if has_missed or any(change.kind == _ROLLOUT for change in news):
            await self._handlers[_ROLLOUT]("")  # before everything else, which may fail or take long
        if has_missed:
            await self._reload()
            self._position = news[-1].seq
            return
        for change in news:
            await self._handle(change.kind, change.ref, self._handlers)
            self._position = change.seq

    async def _handle(self, kind: str, ref: str, handlers: Handlers) -> None:
        """Reacts to one change. A change that cannot be handled keeps no later change from being followed."""
        if kind == _ROLLOUT:
            return
        handler = handlers.get(kind)
        if handler is None:
            if kind not in self._unknown_kinds:
                self._unknown_kinds.add(kind)
                _log.warning("changes of an unknown kind are skipped; a newer replica writes them", kind=kind)
            return
        try:
            await handler(ref)
        except StoreUnavailable:
            raise
        except Exception as error:
            _log.error("a change could not be followed and is skipped", kind=kind, ref=ref, exc_info=error)

    async def _listen(self) -> None:
        """Keeps a separate connection for notifications; without a connection, polling goes on."""
        while True:
            try:
                connection = await connect(self._database.dsn, timeout=5)  # type: ignore[no-untyped-call]
            except (OSError, TimeoutError, PostgresError, InterfaceError):
                await asyncio.sleep(RECONNECT_S)
                continue
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _, ended=ended: ended.set())
            try:
                await connection.add_listener(CHANNEL, lambda *_: self.wake())
                self.wake()
                await ended.wait()
            except (OSError, PostgresError, InterfaceError):
                await asyncio.sleep(RECONNECT_S)
            finally:
                connection.terminate()


async def _nothing() -> None:
    """Reads nothing."""
