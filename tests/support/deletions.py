"""Deletions of programs in tests of the catalogue."""

from routing.catalog.deleted_programs import DeletedPrograms
from routing.catalog.owners import NOBODY
from routing.catalog.programs import Programs
from store.database import Database
from store.deleted_program_store import SqlDeletedProgramStore


async def delete_for_good(
    programs: Programs, database: Database, program_id: str = "p", session: str | None = None
) -> None:
    """Deletes a program without a grace period."""
    deleted = DeletedPrograms(programs, SqlDeletedProgramStore(database), grace_s=0)
    await deleted.delete(await programs.show_own(program_id, session), NOBODY)
