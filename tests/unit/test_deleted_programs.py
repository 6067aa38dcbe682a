"""Deleted programs in the store: how many are kept, whose, and what becomes of their revisions."""

from typing import Any

import pytest
from sqlalchemy import func, select

import store.deleted_program_store
from poolshift.worker.definitions import Definition, Field, Signature
from routing.catalog.definitions import decode_definition, encode_definition
from routing.catalog.deleted_programs import DeletedPrograms
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, ProgramChange, Programs
from routing.catalog.quotas import Quotas
from routing.errors import NoDeletion, NotTheOwner, ProgramExists, ProgramNotFound, QuotaExceeded
from store.database import Database
from store.deleted_program_store import SqlDeletedProgramStore
from store.program_store import SqlProgramStore
from store.session_store import SqlSessionStore
from store.tables import deleted_programs, program_revisions

pytestmark = pytest.mark.anyio
ALICE, BOB = Editor("alice's key", "alice"), Editor("bob's key", "bob")
NOBODYS, ADMIN = Editor("nobody's key"), Editor("the admin's key", changes_all=True)


def new(
    program_id: str, text: str = "", session: str | None = None, by: Editor = ALICE, *, shared: bool = False
) -> NewProgram:
    signature = Signature((Field("text", "string"),), (Field("result", "string"),))
    definition = Definition("python", signature, "examples.text:keywords", text, shared=shared)
    return NewProgram(program_id, session, definition, by)


@pytest.fixture
async def programs(database: Database) -> Programs:
    return Programs(SqlProgramStore(database, grace_s=3600), quotas=Quotas(programs=3))


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
        await deleted.find("p1", None, ALICE)
    for kept in ("bobs", "p2", "p4"):
        assert (await deleted.find(kept, None, ALICE)).program.id == kept


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
    assert [one.deleted_by for one in await deleted.listed("large", None, ALICE)] == ["alice's key"]


async def test_a_deleted_program_counts_for_no_quota_until_it_is_back(
    programs: Programs, deleted: DeletedPrograms
) -> None:
    """The place is free at once; without a place the program stays deleted, and nothing is lost."""
    for name in "abc":
        await programs.put(new(name))
    await delete(deleted, "a")
    await programs.put(new("d"))
    gone = await deleted.find("a", None, ALICE)
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
    gone = await deleted.find("a", None, ALICE)
    await programs.put(new("a", "new"))
    with pytest.raises(ProgramExists):
        await deleted.restore(gone, None)
    assert (await deleted.find("a", None, ALICE)).program.definition.instructions == "old"


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
    restored = await deleted.restore(await deleted.find("p", None, ALICE), None)
    page = await programs.revisions("p", None, limit=10, max_bytes=10**6, before=None, of_v2=True)
    assert [one.revision for one in page.revisions] == [2, 1]
    assert restored.v2 is not None


async def test_each_deletion_of_an_id_can_be_restored(programs: Programs, deleted: DeletedPrograms) -> None:
    """The newest one, or the one that is named; another program's number, or one that is restored, is none of it."""
    for text in ("first", "second", "third"):
        await programs.put(new("p", text))
        await delete(deleted, "p")
    await programs.put(new("other"))
    await delete(deleted, "other")
    listed = await deleted.listed("p", None, ALICE)
    assert [(one.revision, one.owner, one.deleted_by) for one in listed] == [(1, "alice", "alice's key")] * 3
    assert listed == sorted(listed, key=lambda one: one.deleted_at, reverse=True)
    texts = [(await deleted.find("p", None, ALICE, one.number)).program.definition.instructions for one in listed]
    assert texts == ["third", "second", "first"]
    first = listed[-1].number
    assert (await deleted.restore(await deleted.find("p", None, ALICE, first), None)).program.key == str(first)
    (other,) = await deleted.listed("other", None, ALICE)
    for number in (first, other.number, 9**9):
        with pytest.raises(NoDeletion):
            await deleted.find("p", None, ALICE, number)


async def test_another_owners_deletion_is_in_nobodys_way(programs: Programs, deleted: DeletedPrograms) -> None:
    """A restore takes the newest deletion that the key may restore; those of others are neither listed nor taken."""
    await programs.put(new("p", "alice's"))
    await delete(deleted, "p")
    await programs.put(new("p", "bob's", by=Editor("the admin's key", "bob", changes_all=True)))
    await delete(deleted, "p", BOB)
    (of_bob, of_alice) = await deleted.listed("p", None, ADMIN)
    assert (of_bob.owner, of_alice.owner) == ("bob", "alice")
    assert await deleted.listed("p", None, ALICE) == [of_alice]
    assert await deleted.listed("p", None, NOBODYS) == []
    for editor, number in ((ALICE, of_bob.number), (NOBODYS, None)):
        with pytest.raises(NotTheOwner, match="'bob'"):
            await deleted.find("p", None, editor, number)
    assert (await deleted.find("p", None, ALICE)).program.definition.instructions == "alice's"


@pytest.mark.parametrize("editor", [BOB, NOBODYS])
async def test_an_id_is_kept_for_the_owner_of_a_deleted_program(
    programs: Programs, deleted: DeletedPrograms, editor: Editor
) -> None:
    """Others create nothing under it, in whichever way, also after they have deleted the program as a shared one."""
    await programs.put(new("p", shared=True))
    await delete(deleted, "p", editor)
    creations = [
        programs.add(new("p", by=editor)),
        programs.put(new("p", by=editor)),
        programs.put_all([ProgramChange(new("other", by=editor)), ProgramChange(new("p", by=editor))]),
        deleted.check_new(new("p", by=editor)),
    ]
    for creation in creations:
        with pytest.raises(ProgramExists) as refused:
            await creation
        assert "for 'alice'" in str(refused.value.reason)
        assert "scope admin" in str(refused.value.reason)
    assert programs.resolve("other", None) is None
    await programs.add(new("p", session="a-session", by=editor))
    assert (await deleted.restore(await deleted.find("p", None, editor), None)).owner == "alice"


@pytest.mark.parametrize("editor", [ALICE, ADMIN])
async def test_its_owner_and_admins_may_use_the_id(
    programs: Programs, deleted: DeletedPrograms, editor: Editor
) -> None:
    await programs.put(new("p"))
    await delete(deleted, "p")
    await programs.put(new("p", "again", by=editor))


async def test_the_id_is_free_after_the_grace_period(programs: Programs, database: Database) -> None:
    """Also if no sweep has come since."""
    brief = DeletedPrograms(programs, SqlDeletedProgramStore(database), grace_s=1e-6)
    await programs.put(new("p"))
    await delete(brief, "p")
    await brief.check_new(new("p", by=BOB))
    await Programs(SqlProgramStore(database, grace_s=1e-6)).put(new("p", by=BOB))


async def test_a_shared_member_of_a_schema_shares_nothing(programs: Programs, deleted: DeletedPrograms) -> None:
    """The store looks for shared programs by their text."""
    plain = encode_definition(new("p").definition)
    definition = decode_definition(plain.replace(b'"type":"string"', b'"type":"any","schema":{"shared":true}', 1))
    assert b'"shared":true' in encode_definition(definition)
    await programs.put(NewProgram("p", None, definition, ALICE))
    await delete(deleted, "p")
    assert await deleted.listed("p", None, BOB) == []
    assert len(await deleted.listed("p", None, ALICE)) == 1
