"""Deleted programs in the store: how many are kept, whose, and what becomes of their revisions."""

from typing import Any

import pytest
from sqlalchemy import func, select

import store.deleted_program_store
from poolshift.worker.definitions import Definition, Field, Signature
from routing.catalog.deleted_programs import DeletedPrograms
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, Programs
from routing.catalog.quotas import Quotas
from routing.errors import ProgramExists, ProgramNotFound, QuotaExceeded
from store.database import Database
from store.deleted_program_store import SqlDeletedProgramStore
from store.program_store import SqlProgramStore
from store.session_store import SqlSessionStore
from store.tables import deleted_programs, program_revisions

pytestmark = pytest.mark.anyio
ALICE, BOB = Editor("alice's key", "alice"), Editor("bob's key", "bob")


def new(program_id: str, text: str = "", session: str | None = None) -> NewProgram:
    signature = Signature((Field("text", "string"),), (Field("result", "string"),))
    return NewProgram(program_id, session, Definition("python", signature, "examples.text:keywords", text), ALICE)


@pytest.fixture
async def programs(database: Database) -> Programs:
    return Programs(SqlProgramStore(database), quotas=Quotas(programs=3))


@pytest.fixture
async def deleted(programs: Programs, database: Database) -> DeletedPrograms:
    return DeletedPrograms(programs, SqlDeletedProgramStore(database), grace_s=3600)


async def delete(deleted: DeletedPrograms, program_id: str, by: Editor = ALICE, session: str | None = None) -> None:
    await deleted.delete(await deleted.programs.show_own(program_id, session), by)


async def rows(database: Database, table: Any) -> int:
    async with database.transaction() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


async def test_an_owners_deletions_have_a_bounded_room(
    programs: Programs, deleted: DeletedPrograms, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest are forgotten with their revisions, and those of another owner are not."""
    monkeypatch.setattr(store.deleted_program_store, "KEPT_PROGRAMS", 3)
    await programs.put(new("bobs"))
    await delete(deleted, "bobs", BOB)
    for number in range(5):
        for text in ("first", "second"):
            await programs.put(new(f"p{number}", text))
        await delete(deleted, f"p{number}")
    assert await rows(database, deleted_programs) == 4
    assert await rows(database, program_revisions) == 3
    with pytest.raises(ProgramNotFound):
        await deleted.find("p1", None)
    for kept in ("bobs", "p2", "p4"):
        assert (await deleted.find(kept, None)).program.program.id == kept


async def test_the_room_is_one_of_bytes_too(
    programs: Programs, deleted: DeletedPrograms, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revisions count; the one that was deleted last is kept, however large."""
    monkeypatch.setattr(store.deleted_program_store, "KEPT_BYTES", 3000)
    for name, text in (("small", "x"), ("large", "y" * 4000)):
        await programs.put(new(name, text))
        await programs.put(new(name, "last"))
        await delete(deleted, name)
    assert await rows(database, deleted_programs) == 1
    assert (await deleted.find("large", None)).deleted_by == "alice's key"


async def test_a_deleted_program_counts_for_no_quota_until_it_is_back(
    programs: Programs, deleted: DeletedPrograms
) -> None:
    """The place is free at once; without a place the program stays deleted, and nothing is lost."""
    for name in "abc":
        await programs.put(new(name))
    await delete(deleted, "a")
    await programs.put(new("d"))
    gone = (await deleted.find("a", None)).program
    with pytest.raises(QuotaExceeded):
        await deleted.restore(gone, None)
    await delete(deleted, "d")
    assert (await deleted.restore(gone, None)).owner == "alice"
    assert programs.resolve("a", None) is not None
    await delete(deleted, "b")
    with pytest.raises(ProgramNotFound):  # somebody else has restored it meanwhile
        await deleted.restore(gone, None)


async def test_one_that_is_taken_meanwhile(programs: Programs, deleted: DeletedPrograms) -> None:
    """The store decides, whatever was looked at before."""
    await programs.put(new("a", "old"))
    await delete(deleted, "a")
    gone = (await deleted.find("a", None)).program
    await programs.put(new("a", "new"))
    with pytest.raises(ProgramExists):
        await deleted.restore(gone, None)
    assert (await deleted.find("a", None)).program.program.definition.instructions == "old"


async def test_those_of_a_session_end_with_it(programs: Programs, deleted: DeletedPrograms, database: Database) -> None:
    """So that a session of the same id begins with nothing."""
    sessions = SqlSessionStore(database)
    await sessions.claim("s", "alice")
    await programs.put(new("p", "first", "s"))
    await programs.put(new("p", "second", "s"))
    await delete(deleted, "p", session="s")
    await sessions.end("s")
    assert (await rows(database, deleted_programs), await rows(database, program_revisions)) == (0, 0)


async def test_a_start_keeps_the_revisions_of_deleted_programs(
    programs: Programs, deleted: DeletedPrograms, database: Database
) -> None:
    """V2's former definitions too, which a start removes for a program that an older replica has deleted."""
    await programs.put(new("p"))
    for text in ("one", "two"):
        await programs.put_v2(new("p", text))
    await delete(deleted, "p")
    await programs.load()
    restored = await deleted.restore((await deleted.find("p", None)).program, None)
    page = await programs.revisions("p", None, limit=10, max_bytes=10**6, before=None, of_v2=True)
    assert [one.revision for one in page.revisions] == [2, 1]
    assert restored.v2 is not None
