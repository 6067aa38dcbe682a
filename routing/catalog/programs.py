"""The programs in memory, so that an execution reads no database; the store keeps them."""

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from prometheus_client import CollectorRegistry

from common.shared_run import SharedRun
from pools.calls import Program
from poolshift.worker.definitions import Definition
from routing.catalog.definitions import encode_definition
from routing.catalog.own_definitions import OnTrial, OwnDefinition, no_own_definition
from routing.catalog.owners import NOBODY, Editor
from routing.catalog.quotas import DEFAULT_QUOTAS, ProgramUsage, Quotas
from routing.catalog.revisions import ANY_STATE, Precondition, RevisionPage
from routing.catalog.write_behind import Used, write_in_batches
from routing.errors import NoProgramOfSession, ProgramNotFound, StaleProgram
from routing.telemetry.program_metrics import ProgramMetrics
from routing.versions import Version


@dataclass(frozen=True, slots=True)
class NewProgram:
    """A program as a client describes it; `session_id` None makes it a global one."""

    id: str
    session_id: str | None
    definition: Definition
    editor: Editor = NOBODY
    """The one who describes it, and who owns it if it is a new global one."""


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program, the session that it belongs to, and its use."""

    program: Program
    session_id: str | None
    created_at: datetime
    execution_count: int = 0
    last_executed_at: datetime | None = None
    v2: OwnDefinition | None = None
    """V2's own definition, if it has one."""
    v2_revision: int = 0
    """Changes of V2's own definition; one that takes it back is a change, too."""
    owner: str | None = None
    """The owner of a global program; None if it is everyone's. A session's programs belong to the session's owner."""

    def check_editor(self, editor: Editor, after: Definition | None = None) -> None:
        """Tells if `editor` may change the program, to the definition `after`, or delete it. Raises NotTheOwner."""
        stays_shared = after is None or after.shared
        is_shared = self.program.definition.shared
        editor.check(self.program.id, self.owner, is_shared=is_shared, stays_shared=stays_shared)


class ProgramPage(NamedTuple):
    """Some programs by creation; `has_more` tells that others follow."""

    programs: Sequence[StoredProgram]
    has_more: bool


class ProgramUse(NamedTuple):
    """The executions of a program since its last flush."""

    execution_count: int
    last_executed_s: float
    """Seconds since the last one."""


class PutResult(NamedTuple):
    """A program after a change; `is_new` tells that the change created it."""

    stored: StoredProgram
    is_new: bool


class ProgramChange(NamedTuple):
    """A program to create or to replace, and the state that it must be in; with `of_v2` V2's own definition."""

    new: NewProgram
    condition: Precondition = ANY_STATE
    of_v2: bool = False


class CataloguedProgram(Program):
    """A program in memory, with its use for `routing.catalog.write_behind`."""

    def __init__(self, stored: StoredProgram, definition: Definition, size: int) -> None:
        program = stored.program
        super().__init__(program.key, program.id, definition, program.revision)
        self.changed_at = time.monotonic()
        """The time at which this process got its definitions, by the monotonic clock; minus infinity is its start."""
        self._count_before = stored.execution_count
        self.own_size = size
        """The size of the definition, in bytes of JSON."""
        self.v2: Program | None = None
        """The program with V2's own definition, if there is one."""
        self.v2_revision = 0
        self.v2_size = 0
        self.is_dirty = False
        self._count = 0
        self._last_executed_at = -math.inf

    @property
    def execution_count(self) -> int:
        """The executions that this process knows of."""
        return self._count_before + self._count

    @property
    def last_executed_at(self) -> float:
        """The time of the last execution that is known here, by the monotonic clock; minus infinity if of none."""
        return self._last_executed_at

    @property
    def size(self) -> int:
        """The size of all definitions, in bytes of JSON."""
        return self.own_size + self.v2_size

    def used_before(self, seconds: float) -> None:
        """Notes that the last execution was so many seconds ago."""
        self._last_executed_at = time.monotonic() - seconds

    def used(self, now: float) -> None:
        """Counts an execution at `now`, by the monotonic clock."""
        self._count += 1
        self._last_executed_at = now

    def take_use(self) -> ProgramUse:
        use = ProgramUse(self._count, time.monotonic() - self._last_executed_at)
        self._count_before += self._count
        self._count = 0
        return use

    def give_back_use(self, use: ProgramUse) -> None:
        self._count += use.execution_count
        self._count_before -= use.execution_count


class ProgramStore(Protocol):
    """Keeps programs. Every method raises StoreUnavailable if the store does not answer."""

    async def load(self) -> Sequence[StoredProgram]:
        """Reads all programs, in the order of their creation."""
        ...

    async def add(self, new: NewProgram) -> StoredProgram:
        """Keeps `new`. Raises ProgramExists, also while the id is kept for the owner of a deleted program."""
        ...

    async def put(self, new: NewProgram, condition: Precondition) -> PutResult:
        """Creates a program, or replaces its definition by the one of the next revision.

        The definition that is in force already stays, with its revision. Raises StaleProgram, IncompatibleDefinition,
        NotTheOwner, and ProgramExists while the id is kept for the owner of a deleted program.
        """
        ...

    async def put_all(self, changes: Sequence[ProgramChange]) -> Sequence[PutResult]:
        """Makes all changes, or none, in one transaction. Raises as `put` and `put_v2` do."""
        ...

    async def put_v2(self, new: NewProgram, condition: Precondition) -> PutResult:
        """Gives V2 a definition of its own; `is_new` tells that it had none.

        Raises StaleProgram, NoOwnDefinition if V1 has no such program, IncompatibleDefinition, NotTheOwner.
        """
        ...

    async def take_back_v2(self, key: str) -> StoredProgram | None:
        """Takes V2's own definition back; returns None if there was none."""
        ...

    async def promote_v2(self, key: str, revision: int, by: str | None) -> StoredProgram | None:
        """Makes V2's own definition, if it still is at `revision`, everyone's; returns None if it is not."""
        ...

    async def demote(self, key: str, by: str | None) -> StoredProgram:
        """Gives the definition that the last promotion made everyone's back to V2 alone. Raises NothingToDemote."""
        ...

    async def find(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        """Reads the program of exactly this session, or the global one if `session_id` is None."""
        ...

    async def page(self, session_id: str | None, *, limit: int, max_bytes: int, after: int) -> ProgramPage:
        """Reads up to `limit` programs of a session, or global ones, by creation, with keys above `after`.

        The page ends before `max_bytes` of definitions, but has at least one program.
        """
        ...

    async def revisions(
        self, key: str, *, limit: int, max_bytes: int, before: int | None, of_v2: bool = False
    ) -> RevisionPage:
        """Reads up to `limit` revisions of a program, or of V2's own definition, the newest first, below `before`.

        The page ends before `max_bytes` of definitions, but has at least one revision.
        """
        ...

    async def add_uses(self, uses: Mapping[str, ProgramUse]) -> None:
        """Adds to the programs' counts, by key."""
        ...

    async def used_since(self, seconds: float) -> Sequence[str]:
        """Reads the ids of programs with an execution in the last seconds, each once, those of sessions too."""
        ...


class Programs:
    """The catalogue. Every change is written to the store first, so that both always agree."""

    def __init__(
        self,
        store: ProgramStore,
        *,
        is_shared: bool = False,
        quotas: Quotas = DEFAULT_QUOTAS,
        metrics: ProgramMetrics | None = None,
    ) -> None:
        """Takes `is_shared` if other replicas write to the store too, and the `metrics` of single programs."""
        self._metrics = metrics or ProgramMetrics(CollectorRegistry())
        self._quotas = quotas
        self._usage = ProgramUsage(quotas)
        self._store = store
        self._is_shared = is_shared
        self._global: dict[str, CataloguedProgram] = {}
        self._of_sessions: dict[str, dict[str, CataloguedProgram]] = {}
        self._on_trial = OnTrial()
        self._definitions: WeakValueDictionary[bytes, Definition] = WeakValueDictionary()
        """By the hash of their JSON: programs that differ by name alone share one, which workers load once."""
        self.when_changed: Callable[[], None] = lambda: None
        """Called when calls that ran a global program's definition would run another, or none, from now on."""
        self._dirty: list[Used[ProgramUse]] = []
        self._flush = SharedRun(lambda: write_in_batches(self._dirty, store.add_uses))

    async def load(self) -> None:
        """Loads every program into memory."""
        self._global.clear()
        self._of_sessions.clear()
        self._on_trial.clear()
        self._usage = ProgramUsage(self._quotas)
        all_stored = await self._store.load()
        self._metrics.retain([stored.program.key for stored in all_stored])
        newest = max((one.last_executed_at for one in all_stored if one.last_executed_at is not None), default=None)
        for stored in all_stored:
            program = self._remember(stored)
            program.changed_at = -math.inf
            if newest is not None and stored.last_executed_at is not None:
                # Before the last use of all, since the machine's clock may differ from the store's.
                program.used_before((newest - stored.last_executed_at).total_seconds())

    def resolve(self, program_id: str, session_id: str | None) -> CataloguedProgram | None:
        """Finds a call's program in memory: the session's own first, then the global one."""
        if session_id is not None:
            own = self._of_sessions.get(session_id)
            if own is not None and (program := own.get(program_id)) is not None:
                return program
        return self._global.get(program_id)

    async def seek(self, program_id: str, session_id: str | None) -> CataloguedProgram:
        """Finds a call's program that is not in memory: another replica may have written it just now.

        Raises:
            ProgramNotFound: there is no such program.
            StoreUnavailable: the program could not be looked up.
        """
        stored = await self._look_up(program_id, session_id) if self._is_shared else None
        if stored is None:
            raise ProgramNotFound(program_id)
        return self._remember(stored)

    def names(self, quarantine_keys: Collection[str]) -> Mapping[str, str]:
        """The ids of the programs with these keys, which are few; it looks through all programs."""
        if not quarantine_keys:
            return {}
        everywhere = (self._global, *self._of_sessions.values())
        return {
            one.quarantine_key: one.id
            for programs in everywhere
            for program in programs.values()
            for one in (program, program.v2)
            if one is not None and one.quarantine_key in quarantine_keys
        }

    def used(self, program: CataloguedProgram, now: float) -> None:
        """Counts an execution at `now`, by the monotonic clock."""
        program.used(now)
        if not program.is_dirty:
            program.is_dirty = True
            self._dirty.append(program)

    async def flush(self) -> None:
        """Flushes the counts to the store; keeps the rest for the next time. Raises StoreUnavailable."""
        await self._flush()

    async def used_since(self, seconds: float) -> Sequence[str]:
        """As `ProgramStore.used_since`, with the executions of this process. Raises StoreUnavailable."""
        await self.flush()
        return await self._store.used_since(seconds)

    async def add(self, new: NewProgram) -> StoredProgram:
        """Keeps `new`, in the store first. Raises ProgramExists, QuotaExceeded, StoreUnavailable."""
        size = len(encode_definition(new.definition))
        self._usage.check(new.session_id, size)
        with self._reserved(new.session_id, size, 1), self._metrics.place_for(new.definition):
            stored = await self._store.add(new)
            self._remember(stored)
        return stored

    async def put(self, new: NewProgram, condition: Precondition = ANY_STATE) -> PutResult:
        """Creates a program or replaces its definition, in the store first. Calls that have begun keep the former one.

        Raises StaleProgram, IncompatibleDefinition, NotTheOwner, QuotaExceeded, StoreUnavailable.
        """
        await self.flush()
        with self.room_for(new):
            result = await self._store.put(new, condition)
            self._remember(result.stored)
        return result

    async def put_all(self, changes: Sequence[ProgramChange]) -> Sequence[PutResult]:
        """Makes all changes or none, in the store first; each as `put` or `put_v2` would. Raises what these raise."""
        await self.flush()
        with ExitStack() as room:
            for change in changes:
                room.enter_context(self.room_for(change.new, of_v2=change.of_v2))
            results = await self._store.put_all(changes)
            self.take(result.stored for result in results)
        return results

    @contextmanager
    def room_for(self, new: NewProgram, *, of_v2: bool = False) -> Iterator[None]:
        """Counts what a change takes until it is remembered. Raises QuotaExceeded."""
        if of_v2:
            with self._reserved(new.session_id, self.check_quotas_of_v2(new), 0):
                yield
            return
        size, programs = self.check_quotas(new)
        known = self._own(new.session_id).get(new.id)
        place = self._metrics.place_for(new.definition, None if known is None else known.key)
        with self._reserved(new.session_id, size, programs), place:
            yield

    @contextmanager
    def _reserved(self, session_id: str | None, size: int, programs: int) -> Iterator[None]:
        """Counts programs that are being written, so that those written at once count each other."""
        usage = self._usage  # `load` begins to count again
        usage.add(session_id, size, programs)
        try:
            yield
        finally:
            usage.remove(session_id, size, programs)

    def check_quotas(self, new: NewProgram) -> tuple[int, int]:
        """Returns the bytes and the programs that are counted more while `put` writes. Raises QuotaExceeded."""
        size = len(encode_definition(new.definition))
        known = self._own(new.session_id).get(new.id)
        if known is None:
            self._usage.check(new.session_id, size)
            return size, 1
        if size <= known.own_size:  # a smaller definition is welcome if the quota is used up
            return 0, 0
        self._usage.check(new.session_id, size - known.own_size, 0)
        return size - known.own_size, 0

    async def put_v2(self, new: NewProgram, condition: Precondition = ANY_STATE) -> PutResult:
        """Gives V2 a definition of its own, in the store first. Calls that have begun keep the former one.

        Raises StaleProgram, NoOwnDefinition, IncompatibleDefinition, QuotaExceeded, StoreUnavailable.
        """
        await self.flush()
        with self.room_for(new, of_v2=True):
            result = await self._store.put_v2(new, condition)
            self._remember(result.stored)
        return result

    def check_quotas_of_v2(self, new: NewProgram) -> int:
        """Returns the bytes that are counted more while `put_v2` writes. Raises QuotaExceeded."""
        known = self._own(new.session_id).get(new.id)
        more = len(encode_definition(new.definition)) - (0 if known is None else known.v2_size)
        if more > 0:
            self._usage.check(new.session_id, more, 0)
        return max(more, 0)

    async def take_back_v2(self, before: StoredProgram) -> StoredProgram:
        """Has V2 run V1's definition again. Raises ProgramNotFound, StoreUnavailable."""
        stored = await self._store.take_back_v2(before.program.key)
        if stored is None:
            raise no_own_definition(before.program.id)
        self._remember(stored)
        return stored

    async def demote(self, before: StoredProgram, by: str | None) -> StoredProgram:
        """Undoes the last promotion: everyone's definition is V2's own again. Raises NothingToDemote."""
        stored = await self._store.demote(before.program.key, by)
        self._remember(stored)
        return stored

    async def promote_v2(self, tried: StoredProgram, by: str | None) -> StoredProgram:
        """Makes V2's own definition, as it was tried, everyone's: a new revision of the program.

        Raises StaleProgram if it has changed since it was tried, StoreUnavailable.
        """
        assert tried.v2 is not None
        revision = tried.v2.program.revision
        stored = await self._store.promote_v2(tried.program.key, revision, by)
        if stored is None:
            now = await self._store.find(tried.program.id, tried.session_id)
            raise StaleProgram(tried.program.id, None if now is None else now.v2_revision)
        self._remember(stored)
        return stored

    def take(self, changed: Iterable[StoredProgram]) -> None:
        """Takes up programs that have just been stored."""
        for stored in changed:
            self._remember(stored)

    async def find(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        """Finds the program of exactly this session, or the global one, with its use. Raises StoreUnavailable."""
        await self.flush()
        return await self._store.find(program_id, session_id)

    async def show(self, program_id: str, session_id: str | None) -> StoredProgram:
        """Finds a call's program, with its use. Raises ProgramNotFound, StoreUnavailable."""
        await self.flush()
        stored = await self._look_up(program_id, session_id)
        if stored is None:
            raise ProgramNotFound(program_id)
        return stored

    async def show_own(self, program_id: str, session_id: str | None) -> StoredProgram:
        """Finds the program that a change is meant for: exactly the session's, or the global one without a session.

        Raises ProgramNotFound, StoreUnavailable.
        """
        stored = await self.find(program_id, session_id)
        if stored is not None:
            return stored
        raise await self.missing(program_id, session_id)

    async def missing(self, program_id: str, session_id: str | None) -> ProgramNotFound:
        """Makes the error for a change of a program that is not there; the global one is no stand-in."""
        if session_id is None:
            return ProgramNotFound(program_id)
        is_global = await self._store.find(program_id, None) is not None
        return NoProgramOfSession(program_id, session_id, is_global=is_global)

    async def page(self, session_id: str | None, *, limit: int, max_bytes: int, after: int) -> ProgramPage:
        """As `ProgramStore.page`, with all uses counted. Raises StoreUnavailable."""
        await self.flush()
        return await self._store.page(session_id, limit=limit, max_bytes=max_bytes, after=after)

    async def revisions(
        self,
        program_id: str,
        session_id: str | None,
        *,
        limit: int,
        max_bytes: int,
        before: int | None,
        of_v2: bool = False,
    ) -> RevisionPage:
        """As `ProgramStore.revisions`, of a call's program. Raises ProgramNotFound, StoreUnavailable."""
        stored = await self._look_up(program_id, session_id)
        if stored is None:
            raise ProgramNotFound(program_id)
        return await self._store.revisions(
            stored.program.key, limit=limit, max_bytes=max_bytes, before=before, of_v2=of_v2
        )

    async def refresh(self, program_id: str, session_id: str | None) -> None:
        """Reads a program again that another replica has created, changed or deleted."""
        stored = await self._store.find(program_id, session_id)
        if stored is not None:
            self._remember(stored)
        else:
            self.forget(program_id, session_id)

    def count(self) -> int:
        """Counts the programs."""
        return len(self._global) + sum(map(len, self._of_sessions.values()))

    def of_everyone(self) -> Collection[CataloguedProgram]:
        """The global programs."""
        return self._global.values()

    def count_own(self) -> int:
        """Counts the programs of which V2 has a definition of its own."""
        return len(self.own_ids())

    def own_definitions(self) -> list[Program]:
        """Returns the programs of which V2 has a definition of its own, with that definition."""
        return [program.v2 for program in self._all() if program.v2 is not None]

    @property
    def on_trial(self) -> Mapping[str, str]:
        """Digests of the definitions of the global programs of which V2 has its own, by id."""
        return self._on_trial.digests

    def own_ids(self) -> list[str]:
        """Names the programs of which V2 has a definition of its own."""
        return sorted(program.id for program in self._all() if program.v2 is not None)

    def _all(self) -> Iterator[CataloguedProgram]:
        for programs in (self._global, *self._of_sessions.values()):
            yield from programs.values()

    def forget_session(self, session_id: str) -> None:
        """Forgets the programs of a session that has ended."""
        for program in self._of_sessions.pop(session_id, {}).values():
            self._usage.remove(session_id, program.size)
            self._metrics.end(program.key)

    def _remember(self, stored: StoredProgram) -> CataloguedProgram:
        program = stored.program
        of_its_own = self._global if stored.session_id is None else self._of_sessions.setdefault(stored.session_id, {})
        known = of_its_own.get(program.id)
        # Two replies of the store may arrive in the wrong order: an older revision changes nothing.
        if known is None or known.key != program.key or known.revision < program.revision:
            if known is not None:
                self._usage.remove(stored.session_id, known.size)
                if known.key != program.key:
                    self._metrics.end(known.key)
                self._tell_change(stored.session_id)
            definition, size = self._share(program.definition)
            known = of_its_own[program.id] = CataloguedProgram(stored, definition, size)
            self._usage.add(stored.session_id, known.size)
            self._metrics.note(known)
        if known.revision == program.revision and known.v2_revision < stored.v2_revision:
            self._remember_v2(known, stored)
        if stored.session_id is None:
            self._on_trial.note(known, known.v2)
        return known

    def _remember_v2(self, known: CataloguedProgram, stored: StoredProgram) -> None:
        """Notes V2's own definition, or that it was taken back."""
        self._usage.remove(stored.session_id, known.v2_size, 0)
        known.changed_at = time.monotonic()
        known.v2_revision = stored.v2_revision
        if stored.v2 is None:
            known.v2, known.v2_size = None, 0
        else:
            program = stored.v2.program
            definition, known.v2_size = self._share(program.definition)
            known.v2 = Program(program.key, program.id, definition, program.revision, Version.V2)
        self._usage.add(stored.session_id, known.v2_size, 0)
        self._tell_change(stored.session_id)

    def _share(self, definition: Definition) -> tuple[Definition, int]:
        """Returns the one object for all definitions with the same JSON, and the size of that."""
        encoded = encode_definition(definition)
        return self._definitions.setdefault(hashlib.sha256(encoded).digest(), definition), len(encoded)

    def forget(self, program_id: str, session_id: str | None) -> None:
        """Forgets a program that the store has no more."""
        own = self._own(session_id)
        program = own.pop(program_id, None)
        if program is not None:
            self._usage.remove(session_id, program.size)
            self._metrics.end(program.key)
            self._tell_change(session_id)
        if session_id is None:
            self._on_trial.forget(program_id)
        if session_id is not None and not own:
            self._of_sessions.pop(session_id, None)

    def _tell_change(self, session_id: str | None) -> None:
        if session_id is None:
            self.when_changed()

    def _own(self, session_id: str | None) -> dict[str, CataloguedProgram]:
        """The programs of exactly this session, or the global ones."""
        return self._global if session_id is None else self._of_sessions.get(session_id, {})

    async def _look_up(self, program_id: str, session_id: str | None) -> StoredProgram | None:
        own = await self._store.find(program_id, session_id) if session_id is not None else None
        return own or await self._store.find(program_id, None)
