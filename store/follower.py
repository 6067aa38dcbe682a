"""Follows the changes that other replicas write to a shared database: woken by NOTIFY, and polling if that fails."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import structlog
from asyncpg.connection import connect
from asyncpg.exceptions import InterfaceError, PostgresError
from sqlalchemy import delete, func, select

from common.background import Background
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

    async def mark(self) -> None:
        """Notes the position of the newest change: everything read from the database from now on includes that change.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        async with self._database.transaction() as connection:
            await connection.execute(delete(changes).where(changes.c.at < moment(connection, -KEPT.total_seconds())))
            self._position = (await connection.execute(select(func.max(changes.c.seq)))).scalar() or 0

    def start(self, handlers: Handlers, reload: Callable[[], Awaitable[None]]) -> None:
        """Follows until `aclose`.

        `reload` reads everything again, for a replica that was away longer than changes are kept.
        """
        self._tasks = [
            self._background.run("follower", lambda: self._follow(handlers, reload)),
            self._background.run("notifications", self._listen),
        ]

    async def aclose(self) -> None:
        """Stops."""
        for task in self._tasks:
            await self._background.stop(task)

    @property
    def staleness_s(self) -> float:
        """Time since this replica last knew everything that the database knows, in seconds; 0 while it keeps up."""
        age_s = time.monotonic() - self._synced_at
        return age_s if age_s > 2 * POLL_INTERVAL_S else 0.0

    async def _follow(self, handlers: Handlers, reload: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await self._catch_up(handlers, reload)
            except StoreUnavailable as error:
                if not self._is_cut_off:
                    _log.warning("cut off from the database; serving on with what is known", reason=str(error))
                self._is_cut_off = True
            else:
                if self._is_cut_off:
                    _log.info("caught up with the database")
                self._is_cut_off = False
                self._synced_at = time.monotonic()
            self._wake.clear()
            try:
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _catch_up(self, handlers: Handlers, reload: Callable[[], Awaitable[None]]) -> None:
        async with self._database.transaction() as connection:
            oldest = (await connection.execute(select(func.min(changes.c.seq)))).scalar()
            query = select(changes).where(changes.c.seq > self._position).order_by(changes.c.seq)
            news = (await connection.execute(query)).all()
        if not news:
            return
        if any(change.kind == _ROLLOUT for change in news) or oldest > self._position + 1 > 1:
            await handlers[_ROLLOUT]("")  # before everything else, which may fail or take long
        if oldest > self._position + 1 > 1:
            await reload()
        else:
            for change in news:
                await self._handle(change.kind, change.ref, handlers)
        self._position = news[-1].seq

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
                await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
                self._wake.set()
                await ended.wait()
            except (OSError, PostgresError, InterfaceError):
                await asyncio.sleep(RECONNECT_S)
            finally:
                connection.terminate()
