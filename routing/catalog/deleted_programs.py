"""Deleted programs in their grace period, and the way back: a deletion is final only after that."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from poolshift.worker.definitions import Definition
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, Programs, StoredProgram
from routing.errors import NoDeletion, NoRevision, NotTheOwner, ProgramExists, ProgramNotFound

KEPT_PROGRAMS: Final = 1000
"""Deleted programs of one owner that can be restored; a further deletion forgets the oldest."""
KEPT_BYTES: Final = 64 * 1024**2
"""Bytes of the definitions of one owner's deleted programs, former ones too; the last deleted one is kept anyway."""


class Deletion(NamedTuple):
    """The deletion of a program, without its definitions: its time, and the name of the key that asked for it."""

    number: int
    """The key of the program, by which it can be named while it is deleted."""
    program_id: str
    session_id: str | None
    revision: int
    owner: str | None
    is_shared: bool
    deleted_at: datetime
    deleted_by: str | None

    def may_be_restored_by(self, editor: Editor) -> bool:
        """Tells if `editor` may restore the program."""
        return editor.may_edit(self.owner, is_shared=self.is_shared)

    def check_editor(self, editor: Editor) -> None:
        """Tells if `editor` may restore the program. Raises NotTheOwner."""
        if not self.may_be_restored_by(editor):
            raise NotTheOwner(self.program_id, self.owner or "", "may restore it")

    def until(self, grace_s: float) -> datetime:
        """Returns the time at which it becomes final, so many seconds after it."""
        return self.deleted_at + timedelta(seconds=grace_s)

    def check_reuse(self, editor: Editor, grace_s: float) -> None:
        """Tells if `editor` may make a new program of this id, which is kept for the former one's owner.

        Raises:
            ProgramExists: it may not.
        """
        if not editor.may_edit(self.owner, is_shared=False):
            until = self.until(grace_s).isoformat(timespec="seconds")
            raise ProgramExists(
                self.program_id,
                f"the id {self.program_id!r} is kept until {until} for {self.owner!r}, "
                "whose program of this id was deleted and can be restored until then: keys of that owner or with the "
                "scope admin may use the id, everyone else another one",
            )


class DeletedProgramStore(Protocol):
    """Keeps deleted programs. Every method raises StoreUnavailable if the store does not answer."""

    async def delete(self, key: str, editor: Editor, *, is_final: bool) -> bool:
        """Deletes a program, with `is_final` for good; returns False if there was none."""
        ...

    async def deletions(self, program_id: str, session_id: str | None, within_s: float) -> Sequence[Deletion]:
        """Lists the deletions of such programs within so many seconds, the newest first."""
        ...

    async def find(self, number: int) -> StoredProgram | None:
        """Reads a deleted program."""
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

    async def listed(self, program_id: str, session_id: str | None, editor: Editor) -> list[Deletion]:
        """Lists the deletions of exactly this session's programs, or global ones, that `editor` may restore.

        The newest is the first. Raises StoreUnavailable.
        """
        found = await self.store.deletions(program_id, session_id, self.grace_s)
        return [one for one in found if one.may_be_restored_by(editor)]

    async def find(
        self, program_id: str, session_id: str | None, editor: Editor, number: int | None = None
    ) -> StoredProgram:
        """Finds the program of the newest deletion that `editor` may restore, or of the deletion `number`.

        Raises ProgramNotFound, NotTheOwner, StoreUnavailable.
        """
        found = await self.store.deletions(program_id, session_id, self.grace_s)
        if number is not None:
            found = [one for one in found if one.number == number]
        if not found:
            raise await self._missing(program_id, session_id, number)
        deletion = next((one for one in found if one.may_be_restored_by(editor)), found[0])
        deletion.check_editor(editor)
        program = await self.store.find(deletion.number)
        if program is None:  # somebody else has restored it just now
            raise await self._missing(program_id, session_id, number)
        return program

    async def _missing(self, program_id: str, session_id: str | None, number: int | None) -> ProgramNotFound:
        if number is None:
            return await self.programs.missing(program_id, session_id)
        return NoDeletion(program_id, number)

    async def check_new(self, new: NewProgram) -> None:
        """Tells if a program may be made: its id may be kept for the owner of a deleted one. Raises ProgramExists."""
        if new.session_id is None:
            for deletion in await self.store.deletions(new.id, None, self.grace_s):
                deletion.check_reuse(new.editor, self.grace_s)

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


def taken(program_id: str, deletion: int | None) -> ProgramExists:
    """Makes the error for a program that is to be restored, while there is one of its id.

    `deletion` is the number of the deletion that would be restored; None if there is none.
    """
    there = f"there is a program {program_id!r}"
    if deletion is None:
        return ProgramExists(program_id, f"{there}, and nothing of this id to restore: name a revision to go back to")
    return ProgramExists(
        program_id,
        f"{there}: name a revision of it to go back to; or give it another id and delete it here, then restore the "
        f"deleted one of this id by its number (`--deletion {deletion}`)",
    )
