"""Deleted programs in their grace period, and the way back: a deletion is final only after that."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from poolshift.worker.definitions import Definition
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, Programs, StoredProgram
from routing.errors import NoRevision, ProgramExists, ProgramNotFound

KEPT_PROGRAMS: Final = 1000
"""Deleted programs of one owner that can be restored; a further deletion forgets the oldest."""
KEPT_BYTES: Final = 64 * 1024**2
"""Bytes of the definitions of one owner's deleted programs, former ones too; the last deleted one is kept anyway."""


class Deletion(NamedTuple):
    """The deletion of a program: its time, and the name of the key that asked for it."""

    program: StoredProgram
    deleted_at: datetime
    deleted_by: str | None


class DeletedProgramStore(Protocol):
    """Keeps deleted programs. Every method raises StoreUnavailable if the store does not answer."""

    async def delete(self, key: str, editor: Editor, *, is_final: bool) -> bool:
        """Deletes a program, with `is_final` for good; returns False if there was none."""
        ...

    async def find(self, program_id: str, session_id: str | None, within_s: float) -> Deletion | None:
        """Finds the last deletion of such a program within so many seconds."""
        ...

    async def definition(self, key: str, revision: int) -> Definition | None:
        """Reads the definition of a revision of a program, deleted or not; None if it is not kept."""
        ...

    async def restore(self, deleted: StoredProgram, new: NewProgram | None) -> StoredProgram | None:
        """Puts a deleted program back with all of its revisions, and makes the definition of `new` its next one.

        Returns None if it is not kept any more. Raises ProgramExists, IncompatibleDefinition.
        """
        ...

    async def forget(self, after_s: float) -> None:
        """Forgets the programs that were deleted so many seconds ago, with their revisions."""
        ...


@dataclass(frozen=True, slots=True)
class DeletedPrograms:
    """Deletes programs, and brings them back as long as the grace period lasts."""

    programs: Programs
    store: DeletedProgramStore
    grace_s: float
    """Seconds; 0 makes each deletion final."""

    async def delete(self, stored: StoredProgram, editor: Editor) -> None:
        """Deletes a program, in the store first. Raises ProgramNotFound, StoreUnavailable."""
        program = stored.program
        if not await self.store.delete(program.key, editor, is_final=self.grace_s <= 0):
            raise ProgramNotFound(program.id)
        self.programs.forget(program.id, stored.session_id)

    async def find(self, program_id: str, session_id: str | None) -> Deletion:
        """Finds the last deleted program of exactly this session, or global one. Raises ProgramNotFound."""
        found = await self.store.find(program_id, session_id, self.grace_s)
        if found is None:
            raise await self.programs.missing(program_id, session_id)
        return found

    async def definition(self, program: StoredProgram, revision: int) -> Definition:
        """Reads the definition of a revision of a program, deleted or not. Raises NoRevision, StoreUnavailable."""
        if revision == program.program.revision:
            return program.program.definition
        found = await self.store.definition(program.program.key, revision)
        if found is None:
            raise NoRevision(program.program.id, revision)
        return found

    async def restore(self, deleted: StoredProgram, new: NewProgram | None) -> StoredProgram:
        """Puts a deleted program back, in the store first; the definition of `new` becomes its next revision.

        Raises ProgramNotFound, ProgramExists, IncompatibleDefinition, QuotaExceeded, StoreUnavailable.
        """
        program = deleted.program
        kept = new or NewProgram(program.id, deleted.session_id, program.definition)
        with self.programs.room_for(kept):
            stored = await self.store.restore(deleted, new)
            if stored is None:
                raise ProgramNotFound(program.id)
            self.programs.take([stored])
        return stored

    async def sweep(self) -> None:
        """Forgets the programs whose grace period is over. Raises StoreUnavailable."""
        await self.store.forget(self.grace_s)


def taken(program_id: str) -> ProgramExists:
    """Makes the error for a program that is to be restored, while there is one of its id."""
    return ProgramExists(
        program_id,
        f"there is a program {program_id!r}: name a revision of it to go back to, or delete it, "
        "before the deleted one of this id is restored",
    )
