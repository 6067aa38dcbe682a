"""The programs as calls see them: in memory, so that an execution reads no database; the store remembers them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

import msgspec

from pools.calls import Program
from poolshift.worker.definitions import Definition
from routing.catalog.write_behind import Used, write_in_batches
from routing.errors import ProgramNotFound


@dataclass(frozen=True, slots=True)
class NewProgram:
    """A program as a client describes it; `session_id` None makes it a global one."""

    id: str
    session_id: str | None
    definition: Definition


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program, where it belongs, and what is known of its use."""

    program: Program
    session_id: str | None
    created_at: datetime
    execution_count: int = 0
    last_executed_at: datetime | None = None


class ProgramUse(NamedTuple):
    """Jobs that are counted in memory and not in the store yet."""

    execution_count: int
    last_executed_at: float
    """In seconds since the epoch."""


class CataloguedProgram(Program):
    """A program in memory, together with its use, which `routing.catalog.write_behind` writes."""

    def __init__(self, key: str, program_id: str, definition: Definition) -> None:
        super().__init__(key, program_id, definition)
        self.is_dirty = False
        self._count = 0
        self._last_executed_at = 0.0

    def used(self, now: float) -> None:
        """Counts an execution at `now`, in seconds since the epoch."""
        self._count += 1
        self._last_executed_at = now

    def take_use(self) -> ProgramUse:
        use = ProgramUse(self._count, self._last_executed_at)
        self._count = 0
        return use

    def give_back_use(self, use: ProgramUse) -> None:
        self._count += use.execution_count


class ProgramStore(Protocol):
    """Where programs are kept. Every method raises StoreUnavailable where the store does not answer."""

    async def load(self) -> Sequence[StoredProgram]:
        """All programs, in the order of their creation."""
        ...

    async def add(self, new: NewProgram) -> StoredProgram:
        """Keeps `new`. Raises ProgramExists."""
        ...

    async def find(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        """The program of exactly this session, or the global one where `session_id` is None."""
        ...

    async def page(self, session_id: str | None, *, limit: int, after: int) -> Sequence[StoredProgram]:
        """Up to `limit` programs of a session, or global ones, by creation, whose key is over `after`."""
        ...

    async def remove(self, key: str) -> bool:
        """Forgets a program; False where it was gone."""
        ...

    async def add_uses(self, uses: Mapping[str, ProgramUse]) -> None:
        """Adds to the programs' counts, by key."""
        ...


class Programs:
    """The catalogue. What it reads from the store it has written there before, so both always agree."""

    def __init__(self, store: ProgramStore, *, is_shared: bool = False) -> None:
        """`is_shared` tells that other replicas write to the store too."""
        self._store = store
        self._is_shared = is_shared
        self._global: dict[str, CataloguedProgram] = {}
        self._of_sessions: dict[str, dict[str, CataloguedProgram]] = {}
        self._definitions: WeakValueDictionary[bytes, Definition] = WeakValueDictionary()
        """By what they say: programs that differ by name alone share one, which workers have loaded once."""
        self._dirty: list[Used[ProgramUse]] = []

    async def load(self) -> None:
        """Brings every program into memory."""
        self._global.clear()
        self._of_sessions.clear()
        for stored in await self._store.load():
            self._remember(stored)

    def resolve(self, program_id: str, session_id: str | None) -> CataloguedProgram | None:
        """The program that a call means, if it is in memory: the session's own first, then the global one."""
        if session_id is not None:
            own = self._of_sessions.get(session_id)
            if own is not None and (program := own.get(program_id)) is not None:
                return program
        return self._global.get(program_id)

    async def seek(self, program_id: str, session_id: str | None) -> CataloguedProgram:
        """The program that a call means and that is not in memory: another replica may have written it just now.

        Raises:
            ProgramNotFound: there is none.
            StoreUnavailable: it could not be looked up.
        """
        stored = await self._look_up(program_id, session_id) if self._is_shared else None
        if stored is None:
            raise ProgramNotFound(program_id)
        return self._remember(stored)

    def used(self, program: CataloguedProgram, now: float) -> None:
        """Counts an execution at `now`, in seconds since the epoch."""
        program.used(now)
        if not program.is_dirty:
            program.is_dirty = True
            self._dirty.append(program)

    async def flush(self) -> None:
        """Brings the counts into the store; what fails is kept for the next time."""
        await write_in_batches(self._dirty, self._store.add_uses)

    async def add(self, new: NewProgram) -> StoredProgram:
        """Keeps `new`, in the store first. Raises ProgramExists, StoreUnavailable."""
        stored = await self._store.add(new)
        self._remember(stored)
        return stored

    async def show(self, program_id: str, session_id: str | None) -> StoredProgram:
        """The program that a call means, with its use. Raises ProgramNotFound, StoreUnavailable."""
        await self.flush()
        stored = await self._look_up(program_id, session_id)
        if stored is None:
            raise ProgramNotFound(program_id)
        return stored

    async def page(self, session_id: str | None, *, limit: int, after: int) -> Sequence[StoredProgram]:
        """Up to `limit` programs of a session, or global ones, created after the one with key `after`."""
        await self.flush()
        return await self._store.page(session_id, limit=limit, after=after)

    async def remove(self, program_id: str, session_id: str | None) -> None:
        """Forgets the program that a call means. Raises ProgramNotFound, StoreUnavailable."""
        stored = await self.show(program_id, session_id)
        if not await self._store.remove(stored.program.key):
            raise ProgramNotFound(program_id)
        self._forget(stored.program.id, stored.session_id)

    async def refresh(self, program_id: str, session_id: str | None) -> None:
        """Another replica has created or deleted this program."""
        stored = await self._store.find(program_id, session_id)
        if stored is not None:
            self._remember(stored)
        else:
            self._forget(program_id, session_id)

    def count(self) -> int:
        """How many programs there are."""
        return len(self._global) + sum(map(len, self._of_sessions.values()))

    def forget_session(self, session_id: str) -> None:
        """A session has ended, and its programs with it."""
        self._of_sessions.pop(session_id, None)

    def count_of(self, session_id: str) -> int:
        """How many programs a session holds."""
        return len(self._of_sessions.get(session_id, ()))

    def _remember(self, stored: StoredProgram) -> CataloguedProgram:
        program = stored.program
        of_its_own = self._global if stored.session_id is None else self._of_sessions.setdefault(stored.session_id, {})
        known = of_its_own.get(program.id)
        if known is None or known.key != program.key:
            encoded = msgspec.json.encode(program.definition)
            definition = self._definitions.setdefault(encoded, program.definition)
            known = of_its_own[program.id] = CataloguedProgram(program.key, program.id, definition)
        return known

    def _forget(self, program_id: str, session_id: str | None) -> None:
        if session_id is None:
            self._global.pop(program_id, None)
            return
        own = self._of_sessions.get(session_id, {})
        own.pop(program_id, None)
        if not own:
            self._of_sessions.pop(session_id, None)

    async def _look_up(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        own = await self._store.find(program_id, session_id) if session_id is not None else None
        return own or await self._store.find(program_id, None)
