"""The sessions, and the version that served each last. In memory; the store keeps them and their programs."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from common.moments import moment_before
from routing.catalog.programs import Programs
from routing.catalog.write_behind import Used, write_in_batches
from routing.errors import SessionNotFound
from routing.versions import Version


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session in the store; `pool_version` is the version that served it last, None before its first call."""

    id: str
    created_at: datetime
    last_seen_at: datetime
    pool_version: Version | None
    execution_count: int
    program_count: int


class SessionUse(NamedTuple):
    """The use of a session since its last flush; times in seconds since the epoch."""

    first_seen_at: float
    last_seen_at: float
    pool_version: Version | None
    execution_count: int


class _Session:
    """A session in memory, with its use for `routing.catalog.write_behind`."""

    def __init__(self, session_id: str, now: float) -> None:
        self.key = session_id
        self.last_seen_at = now
        self.version: Version | None = None
        self.is_dirty = False
        self._first_seen_at = now
        self._count = 0

    def executed(self, version: Version) -> None:
        """Counts an execution that is over."""
        self.version = version
        self._count += 1

    def take_use(self) -> SessionUse:
        # Without an execution here, another replica may know better which version served it last.
        version = self.version if self._count else None
        use = SessionUse(self._first_seen_at, self.last_seen_at, version, self._count)
        self._count = 0
        return use

    def give_back_use(self, use: SessionUse) -> None:
        self._count += use.execution_count


class SessionStore(Protocol):
    """Keeps sessions. Every method raises StoreUnavailable if the store does not answer."""

    async def add_uses(self, uses: Mapping[str, SessionUse]) -> None:
        """Creates or updates sessions, by id."""
        ...

    async def find(self, session_id: str) -> StoredSession | None:
        """Reads one session; None if there is none."""
        ...

    async def page(self, *, limit: int, after: str) -> Sequence[StoredSession]:
        """Reads up to `limit` sessions in the order of their ids, after the id `after`."""
        ...

    async def end(self, session_id: str) -> bool:
        """Forgets a session, its programs and its jobs; returns False if there was none."""
        ...

    async def end_idle(self, since: datetime) -> Sequence[str]:
        """Forgets the sessions last seen before `since`, with their programs and jobs; returns their ids."""
        ...


class Sessions:
    """The sessions in use, and the dirty ones among them."""

    def __init__(self, store: SessionStore, programs: Programs, *, ttl_s: float) -> None:
        self._store = store
        self._programs = programs
        self.ttl_s = ttl_s
        self._sessions: dict[str, _Session] = {}
        self._dirty: list[Used[SessionUse]] = []
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the id of each session that has ended."""
        self._listeners.append(listener)

    def seen(self, session_id: str, version: Version | None = None) -> None:
        """Notes that a session is in use, perhaps by an execution on `version`. Its time to live starts again."""
        now = time.time()
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = _Session(session_id, now)
        session.last_seen_at = now
        if version is not None:
            session.executed(version)
        if not session.is_dirty:
            session.is_dirty = True
            self._dirty.append(session)

    def active(self) -> Mapping[Version, int]:
        """Counts the sessions within their time to live, on this replica, by the version that served them last."""
        oldest = time.time() - self.ttl_s
        return Counter(one.version for one in self._sessions.values() if one.version and one.last_seen_at >= oldest)

    async def flush(self) -> None:
        """Flushes the use of sessions to the store; keeps the rest for the next time. Raises StoreUnavailable."""
        await write_in_batches(self._dirty, self._store.add_uses)

    async def show(self, session_id: str) -> StoredSession:
        """Finds one session. Raises SessionNotFound, StoreUnavailable."""
        await self.flush()
        session = await self._store.find(session_id)
        if session is None:
            raise SessionNotFound(session_id)
        return session

    async def page(self, *, limit: int, after: str) -> Sequence[StoredSession]:
        """Reads up to `limit` sessions in the order of their ids, after the id `after`."""
        await self.flush()
        return await self._store.page(limit=limit, after=after)

    async def end(self, session_id: str) -> None:
        """Ends a session and frees everything that it holds. Raises SessionNotFound, StoreUnavailable."""
        await self.flush()
        if not await self._store.end(session_id):
            raise SessionNotFound(session_id)
        self.forget(session_id)

    async def end_idle(self) -> None:
        """Ends the sessions whose time to live is over. Raises StoreUnavailable."""
        await self.flush()
        self._drop_expired()
        for session_id in await self._store.end_idle(moment_before(self.ttl_s)):
            self.forget(session_id)

    def _drop_expired(self) -> None:
        """Frees the memory of sessions that another replica may still serve: their row in the store lives on."""
        oldest = time.time() - self.ttl_s
        for one in [one for one in self._sessions.values() if one.last_seen_at < oldest and not one.is_dirty]:
            del self._sessions[one.key]

    def forget(self, session_id: str) -> None:
        """Forgets a session that has ended, here or on another replica."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.is_dirty = False  # its use must not bring it back
        self._programs.forget_session(session_id)
        for listener in self._listeners:
            listener(session_id)
