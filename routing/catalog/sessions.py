"""The sessions, and the version that served each last. In memory; the store keeps them and their programs."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from common.shared_run import SharedRun
from routing.catalog.ended_sessions import EndedSession, EndedSessions
from routing.catalog.owners import EVERYONE, Caller
from routing.catalog.programs import Programs
from routing.catalog.quotas import DEFAULT_QUOTAS, Quotas, check_sessions
from routing.catalog.write_behind import Used, write_in_batches
from routing.errors import QuotaExceeded, SessionNotFound
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
    owner: str | None = None


class SessionUse(NamedTuple):
    """The use of a session since its last flush."""

    first_seen_s: float
    """Seconds since its first use."""
    last_seen_s: float
    """Seconds since its last one."""
    pool_version: Version | None
    execution_count: int
    owner: str | None = None


class _Session:
    """A session in memory, with its use for `routing.catalog.write_behind`. Times are of the monotonic clock."""

    def __init__(self, session_id: str, now: float, owner: str | None) -> None:
        self.key = session_id
        self.owner = owner
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
        now = time.monotonic()
        first_s, last_s = now - self._first_seen_at, now - self.last_seen_at
        use = SessionUse(first_s, last_s, version, self._count, self.owner)
        self._count = 0
        return use

    def give_back_use(self, use: SessionUse) -> None:
        self._count += use.execution_count


class SessionStore(Protocol):
    """Keeps sessions. Every method raises StoreUnavailable if the store does not answer."""

    async def add_uses(self, uses: Mapping[str, SessionUse]) -> None:
        """Creates or updates sessions, by id."""
        ...

    async def owners(self) -> Mapping[str, str | None]:
        """The owner of every session, by id."""
        ...

    async def claim(self, session_id: str, owner: str) -> str | None:
        """Creates a session of `owner`, unless it is there already; returns its owner."""
        ...

    async def find(self, session_id: str) -> StoredSession | None:
        """Reads one session; None if there is none."""
        ...

    async def page(self, caller: Caller, *, limit: int, after: str) -> Sequence[StoredSession]:
        """Up to `limit` sessions that `caller` may see, by id, after the id `after`."""
        ...

    async def end(self, session_id: str) -> EndedSession | None:
        """Forgets a session, its programs and its jobs; returns None if there was none."""
        ...

    async def end_idle(self, idle_s: float) -> Sequence[EndedSession]:
        """Forgets the sessions last seen so many seconds ago, with their programs and jobs."""
        ...

    async def ended(self) -> Sequence[EndedSession]:
        """Reads the ended sessions that are remembered, in the order of their ends, and forgets older ones."""
        ...

    async def find_ended(self, session_id: str) -> EndedSession | None:
        """Reads an ended session; None if it is not remembered."""
        ...

    async def begin_again(self, session_id: str, programs: Collection[str], *, has_lm: bool) -> EndedSession | None:
        """Notes that an ended session has these programs, or an LM, again.

        Returns it with what it still lacks; None if that is nothing, and then forgets that it has ended.
        """
        ...

    async def forget_ended(self, session_id: str) -> None:
        """Forgets that a session has ended, whatever it lacks."""
        ...


class Sessions:
    """The sessions in use, and the dirty ones among them."""

    def __init__(
        self,
        store: SessionStore,
        programs: Programs,
        *,
        ttl_s: float,
        is_shared: bool = False,
        quotas: Quotas = DEFAULT_QUOTAS,
    ) -> None:
        """`is_shared` tells that other replicas write to the store too."""
        self._is_shared = is_shared
        self._quotas = quotas
        self._count_of: Counter[str | None] = Counter()
        """Sessions in memory, by owner."""
        self._store = store
        self._programs = programs
        self.ttl_s = ttl_s
        self._sessions: dict[str, _Session] = {}
        self._ended = EndedSessions()
        self._dirty: list[Used[SessionUse]] = []
        self._flush = SharedRun(lambda: write_in_batches(self._dirty, store.add_uses))
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the id of each session that has ended."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Loads the owner of every session into memory, and the sessions that ended lately."""
        self._ended.load(await self._store.ended())
        owners = await self._store.owners()
        for known in [one for one in self._sessions.values() if one.key not in owners and not one.is_dirty]:
            self._drop(known)
        now = time.monotonic()
        for session_id, owner in owners.items():
            if session_id in self._ended and session_id not in self._sessions:
                continue  # a call that ran when it ended has brought its row back
            session = self._sessions.get(session_id)
            if session is not None:
                self._drop(session)
                session.owner = owner
            self._add(session or _Session(session_id, now, owner))

    def admits(self, session_id: str, caller: Caller) -> bool:
        """Tells, by memory alone, if `caller` may use a session with all that it had.

        If memory does not know it, or the session has begun again, `admit_call` decides.
        """
        session = self._sessions.get(session_id)
        return session is not None and caller.may_see(session.owner) and not self._ended.is_known(session_id)

    async def admit_call(self, session_id: str, caller: Caller, program_id: str) -> None:
        """Lets `caller` run a program in a session.

        Raises:
            SessionEnded: as `admit`, or the session has begun again without the program, or the LM that it runs on.
            SessionNotFound, QuotaExceeded, StoreUnavailable: as `admit`.
        """
        await self.admit(session_id, caller)
        if not self._ended.is_known(session_id):
            return
        program = self._programs.resolve(program_id, session_id)
        definitions = [one.definition for one in (program, program and program.v2) if one is not None]
        needs_lm = any(one.uses_lm for one in definitions)
        error = self._ended.loss(session_id, caller, program_id, needs_lm=needs_lm)
        if error is not None:
            raise error

    async def admit(self, session_id: str, caller: Caller, *, may_begin_again: bool = False) -> None:
        """Lets `caller` use a session, which is the caller's own if it is new.

        `may_begin_again` is for what gives the session something of its own: one that has ended begins again then.

        Raises:
            SessionEnded: it has ended, with programs or an LM of its own.
            SessionNotFound: it is another owner's.
            QuotaExceeded: it is new, and there are too many.
            StoreUnavailable: it is new here, and the store cannot say whose it is.
        """
        session = self._sessions.get(session_id)
        if session is None and self._ended.has(session_id, caller):
            if not may_begin_again:
                raise self._ended.error(session_id)
            await self._check_quotas(session_id, caller.owner)
            return  # `keep` begins it again: until then its calls are refused
        session = session or await self._begin(session_id, caller.owner)
        if not caller.may_see(session.owner):
            raise SessionNotFound(session_id)

    async def sees(self, session_id: str, caller: Caller) -> bool:
        """Tells if `caller` may see a session, or it does not exist. Raises StoreUnavailable."""
        session = self._sessions.get(session_id)
        if session is not None or not self._is_shared or caller.sees_all:
            return session is None or caller.may_see(session.owner)
        stored = await self._store.find(session_id)
        return stored is None or caller.may_see(stored.owner)

    def seen(self, session_id: str, version: Version | None = None, owner: str | None = None) -> None:
        """Notes that a session is in use, by an execution on `version` or otherwise: its time to live starts again.

        One that has ended meanwhile begins again, and is `owner`'s, unless it held something of its own.
        """
        now = time.monotonic()
        session = self._sessions.get(session_id)
        if session is None:
            if session_id in self._ended:
                return
            session = self._add(_Session(session_id, now, owner))
        session.last_seen_at = now
        if version is not None:
            session.executed(version)
        if not session.is_dirty:
            session.is_dirty = True
            self._dirty.append(session)

    async def keep(self, session_id: str, caller: Caller, *, programs: Collection[str] = ()) -> None:
        """Stores a session that has these `programs`, or something else, of its own now, for all replicas.

        One that has ended begins again.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        await self.begin_again(session_id, caller, programs=programs)
        self.seen(session_id, owner=caller.owner)
        await self.flush()

    async def begin_again(
        self, session_id: str, caller: Caller, *, programs: Collection[str] = (), has_lm: bool = False
    ) -> None:
        """Begins a session again that has ended. It still lacks what it had beside these `programs`, or beside the LM.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if not self._ended.is_known(session_id):
            return
        lacking = None
        if self._ended.is_of(session_id, caller):
            lacking = await self._store.begin_again(session_id, programs, has_lm=has_lm)
        else:
            await self._store.forget_ended(session_id)
        self._ended.begun_again(lacking, session_id)

    def active(self) -> Mapping[Version, int]:
        """Counts the sessions within their time to live, on this replica, by the version that served them last."""
        oldest = time.monotonic() - self.ttl_s
        return Counter(one.version for one in self._sessions.values() if one.version and one.last_seen_at >= oldest)

    async def flush(self) -> None:
        """Flushes the use of sessions to the store; keeps the rest for the next time. Raises StoreUnavailable."""
        await self._flush()

    async def show(self, session_id: str, caller: Caller = EVERYONE) -> StoredSession:
        """Finds a session that `caller` may see. Raises SessionNotFound, StoreUnavailable."""
        await self.flush()
        session = await self._store.find(session_id)
        if session is None or not caller.may_see(session.owner):
            raise SessionNotFound(session_id)
        return session

    async def page(self, caller: Caller = EVERYONE, *, limit: int, after: str) -> Sequence[StoredSession]:
        """Up to `limit` sessions that `caller` may see, by id, after the id `after`."""
        await self.flush()
        return await self._store.page(caller, limit=limit, after=after)

    async def end(self, session_id: str, caller: Caller = EVERYONE) -> None:
        """Ends a session and frees what it holds. Raises SessionNotFound, StoreUnavailable."""
        await self.flush()
        ended = await self._store.end(session_id) if await self.sees(session_id, caller) else None
        if ended is None:
            raise SessionNotFound(session_id)
        self._forget(ended.id, ended)

    async def end_idle(self) -> None:
        """Ends the sessions whose time to live is over. Raises StoreUnavailable."""
        await self.flush()
        self._drop_expired()
        self._ended.sweep()
        for ended in await self._store.end_idle(self.ttl_s):
            self._forget(ended.id, ended)

    def _drop_expired(self) -> None:
        """Frees the memory of sessions that another replica may still serve: their row in the store lives on."""
        oldest = time.monotonic() - self.ttl_s
        for one in [one for one in self._sessions.values() if one.last_seen_at < oldest and not one.is_dirty]:
            self._drop(one)

    async def ended_elsewhere(self, session_id: str) -> None:
        """Forgets a session that another replica has ended. Raises StoreUnavailable."""
        self._forget(session_id, await self._store.find_ended(session_id))

    async def begun_elsewhere(self, session_id: str) -> None:
        """Notes that an ended session has begun again on another replica, unless it has ended there since.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        ended = await self._store.find_ended(session_id)
        if ended is None or ended.has_begun_again:
            self._ended.begun_again(ended, session_id)

    def _forget(self, session_id: str, ended: EndedSession | None) -> None:
        if ended is not None:
            self._ended.remember(ended)
        session = self._sessions.get(session_id)
        if session is not None:
            self._drop(session)
            session.is_dirty = False  # its use must not bring it back
        self._programs.forget_session(session_id)
        for listener in self._listeners:
            listener(session_id)

    async def _begin(self, session_id: str, owner: str | None) -> _Session:
        """Brings a session into memory that is new here."""
        await self._check_quotas(session_id, owner)
        if owner is not None:  # stored at once: a crash must not give the session to somebody else
            owner = await self._store.claim(session_id, owner)
        return self._sessions.get(session_id) or self._add(_Session(session_id, time.monotonic(), owner))

    async def _check_quotas(self, session_id: str, owner: str | None) -> None:
        of_owner = self._count_of[owner] if owner is not None else 0
        try:
            check_sessions(self._quotas, len(self._sessions), of_owner)
        except QuotaExceeded:
            if not self._is_shared or await self._store.find(session_id) is None:
                raise

    def _add(self, session: _Session) -> _Session:
        self._sessions[session.key] = session
        self._count_of[session.owner] += 1
        return session

    def _drop(self, session: _Session) -> None:
        del self._sessions[session.key]
        self._count_of[session.owner] -= 1
        if not self._count_of[session.owner]:
            del self._count_of[session.owner]
