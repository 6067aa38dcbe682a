"""A change of a program, from its check to the store: every way to change one goes through here."""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime

from app.access.auth import Principal
from app.api.programs.check import try_definition
from app.services import Services
from common.names import first_of
from pools.calls import Program
from routing.catalog.compatibility import ensure_compatible
from routing.catalog.definitions import encode_definition
from routing.catalog.own_definitions import OwnDefinition, no_program_of_v1
from routing.catalog.programs import NewProgram, ProgramChange, PutResult, StoredProgram
from routing.errors import SessionNotFound
from routing.versions import Version


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """A change that the service would make: its definition has been loaded, and is complete."""

    change: ProgramChange
    before: StoredProgram | None
    after: StoredProgram
    """The program as the change would make it."""

    @property
    def is_needed(self) -> bool:
        """False if the definition is in force already."""
        return self.after is not self.before

    @property
    def is_new(self) -> bool:
        """True if the change creates the program, or V2's own definition."""
        return self.before is None or (self.change.of_v2 and self.before.v2 is None)


async def check_change(change: ProgramChange, services: Services, principal: Principal) -> Checked:
    """Checks everything about a change, and changes nothing. The first check that fails raises, the cheap ones first.

    Raises:
        SessionNotFound, NoOwnDefinition, StaleProgram, NotTheOwner, IncompatibleDefinition, QuotaExceeded.
        Problem, PoolOverloaded, SpawnFailed: as `try_definition` raises them.
    """
    before = await _before(change, services, principal)
    if before is not None and _is_in_force(change, before):
        return Checked(change, before, before)
    version = Version.V2 if change.of_v2 else None
    tried = await try_definition(change.new.definition, services, version)
    change = change._replace(new=dataclasses.replace(change.new, definition=tried))
    if before is not None and _is_in_force(change, before):
        return Checked(change, before, before)
    if change.of_v2 and before is not None:
        return Checked(change, before, await _after_v2(change.new, before, services))
    return Checked(change, before, await _after(change.new, before, services))


async def make_changes(checked: Sequence[Checked], services: Services, principal: Principal) -> Sequence[PutResult]:
    """Makes all changes, or none. What is known of the sessions by then is known to every replica.

    Raises:
        SessionNotFound, StaleProgram, NotTheOwner, IncompatibleDefinition, QuotaExceeded, StoreUnavailable.
    """
    needed = [one for one in checked if one.is_needed]
    sessions = _own_programs([one.change.new for one in needed if not one.change.of_v2])
    for session_id in sessions:
        await services.sessions.admit(session_id, principal.caller, may_begin_again=True)
    async with _new_evidence(needed, services, principal.name):
        made = iter(await services.programs.put_all([one.change for one in needed]) if needed else ())
    results = [next(made) if one.is_needed else PutResult(one.after, is_new=False) for one in checked]
    for session_id, programs in sessions.items():
        await services.sessions.keep(session_id, principal.caller, programs=programs)
    return results


def _own_programs(new: Sequence[NewProgram]) -> dict[str, list[str]]:
    """The ids of the programs that sessions have of their own, by session."""
    sessions: dict[str, list[str]] = {}
    for one in new:
        if one.session_id is not None:
            sessions.setdefault(one.session_id, []).append(one.id)
    return sessions


def is_same(before: Program, new: NewProgram) -> bool:
    """Compares definitions as JSON, since nothing else is stored of them."""
    return encode_definition(before.definition) == encode_definition(new.definition)


async def _before(change: ProgramChange, services: Services, principal: Principal) -> StoredProgram | None:
    """Reads the program that is to change, and checks what needs no trial."""
    new = change.new
    is_visible = new.session_id is None or await services.sessions.sees(new.session_id, principal.caller)
    before = await services.programs.find(new.id, new.session_id) if is_visible else None
    if change.of_v2 and before is None:
        raise no_program_of_v1(new.id, new.session_id)
    if not is_visible:
        raise SessionNotFound(new.session_id)
    change.condition.check(new.id, _revision(change, before))
    if before is not None:
        before.check_editor(new.editor, new.definition)
    else:
        await services.deleted_programs.check_new(new)
    return before


def _revision(change: ProgramChange, before: StoredProgram | None) -> int | None:
    if before is None or (change.of_v2 and before.v2 is None):
        return None
    return before.v2_revision if change.of_v2 else before.program.revision


def _is_in_force(change: ProgramChange, before: StoredProgram) -> bool:
    if change.of_v2:
        return before.v2 is not None and is_same(before.v2.program, change.new)
    return is_same(before.program, change.new)


async def _after(new: NewProgram, before: StoredProgram | None, services: Services) -> StoredProgram:
    """Returns the program as a change of the definition that all versions run would make it."""
    if before is not None and before.v2 is not None:
        await ensure_compatible(new.definition.signature, before.v2.program.definition.signature)
    services.programs.check_quotas(new)
    if before is None:
        program = Program("", new.id, new.definition)
        owner = new.editor.owner if new.session_id is None else None
        return StoredProgram(program, new.session_id, datetime.now(UTC), owner=owner)
    program = Program(before.program.key, new.id, new.definition, before.program.revision + 1)
    return dataclasses.replace(before, program=program)


async def _after_v2(new: NewProgram, before: StoredProgram, services: Services) -> StoredProgram:
    """Returns the program as a change of V2's own definition would make it."""
    await ensure_compatible(before.program.definition.signature, new.definition.signature)
    services.programs.check_quotas_of_v2(new)
    program = Program(before.program.key, new.id, new.definition, before.v2_revision + 1, Version.V2)
    return dataclasses.replace(before, v2=OwnDefinition(program, datetime.now(UTC), new.editor.name))


def _new_evidence(needed: Sequence[Checked], services: Services, by: str) -> AbstractAsyncContextManager[object]:
    """Begins the evidence of a ramp again, once, if V2's own definition or the one beside it is another afterwards."""
    told = [
        f"gave V2 a definition of its own of {one.change.new.id}"
        if one.change.of_v2
        else f"changed V1's definition of {one.change.new.id}, V2 has its own"
        for one in needed
        if one.change.of_v2 or one.after.v2 is not None
    ]
    if not told:
        return nullcontext()
    return services.ramp.changing(lambda: f"{by} {first_of(told, 1, 'others')}")
