"""V2's own definition of a program, in the catalogue and the store: beside V1's, taken back, promoted."""

import asyncio
from collections.abc import Mapping

import pytest
from sqlalchemy import select, update

from poolshift.worker.definitions import Definition, Field, Signature
from routing.catalog.definitions import decode_definition
from routing.catalog.owners import Editor
from routing.catalog.programs import CataloguedProgram, NewProgram, Programs
from routing.catalog.quotas import Quotas
from routing.catalog.revisions import KEPT_REVISIONS, Precondition
from routing.errors import IncompatibleDefinition, NoOwnDefinition, QuotaExceeded, StaleProgram
from store.database import Database
from store.deleted_program_store import SqlDeletedProgramStore
from store.program_store import SqlProgramStore
from store.session_store import SqlSessionStore
from store.tables import program_v2_revisions
from store.tables import programs as rows
from tests.support.deletions import delete_for_good

pytestmark = pytest.mark.anyio
SESSIONS = [None, "a-session"]


def new(instructions: str, session: str | None = None, *, name: str = "text", required: bool = True) -> NewProgram:
    signature = Signature((Field(name, "string", required=required),), (Field("result", "string"),))
    definition = Definition("python", signature, "examples.text:keywords", instructions)
    return NewProgram("p", session, definition, Editor("alice"))


@pytest.fixture
async def programs(database: Database) -> Programs:
    return Programs(SqlProgramStore(database), is_shared=True)


def in_memory(programs: Programs, session: str | None = None) -> CataloguedProgram:
    program = programs.resolve("p", session)
    assert program is not None
    return program


def told(programs: Programs, session: str | None = None) -> tuple[str | None, str | None]:
    """The instructions that V1 and V2 have; None if V2 has no definition of its own."""
    program = in_memory(programs, session)
    return program.definition.instructions, None if program.v2 is None else program.v2.definition.instructions


async def former(programs: Programs, *, of_v2: bool) -> list[tuple[int, str | None]]:
    page = await programs.revisions("p", None, limit=100, max_bytes=1024**2, before=None, of_v2=of_v2)
    return [(one.revision, decode_definition(bytes(one.definition)).instructions) for one in page.revisions]


@pytest.mark.parametrize("session", SESSIONS)
async def test_it_lives_beside_v1s(programs: Programs, database: Database, session: str | None) -> None:
    """V1's stays; a restart and another replica find both; each definition has a quarantine of its own."""
    with pytest.raises(NoOwnDefinition):
        await programs.put_v2(new("before V1's", session))
    await programs.add(new("old", session))
    base = in_memory(programs, session)
    programs.used(base, 1.0)
    assert (await programs.put_v2(new("new", session))).is_new
    assert not (await programs.put_v2(new("newer", session))).is_new
    assert told(programs, session) == ("old", "newer")
    program = in_memory(programs, session)
    assert program is base
    assert program.v2 is not None
    assert (program.key, program.v2.key, program.v2.revision) == (base.key, base.key, 2)
    assert program.quarantine_key != program.v2.quarantine_key
    assert program.size == program.own_size + program.v2_size
    others = Programs(SqlProgramStore(database), is_shared=True)
    await others.load()
    assert told(others, session) == ("old", "newer")
    shown = await others.show("p", session)
    assert shown.v2 is not None
    assert (shown.v2.created_by, shown.execution_count) == ("alice", 1)
    await programs.put(new("old, changed", session))
    await others.refresh("p", session)
    assert told(others, session) == told(programs, session) == ("old, changed", "newer")
    await programs.take_back_v2(await programs.show_own("p", session))
    await others.refresh("p", session)
    assert told(others, session) == told(programs, session) == ("old, changed", None)
    with pytest.raises(NoOwnDefinition):
        await programs.take_back_v2(await programs.show_own("p", session))


async def test_an_older_reply_brings_nothing_back(programs: Programs) -> None:
    """Two replies of the store may arrive in the wrong order: one from before it was taken back changes nothing."""
    await programs.add(new("old"))
    before = (await programs.put_v2(new("new"))).stored
    await programs.take_back_v2(await programs.show_own("p", None))
    programs._remember(before)
    assert told(programs) == ("old", None)


async def test_promoted_it_is_a_revision_of_the_program(programs: Programs) -> None:
    """The former ones of both are kept; V2 has none of its own then, and gets the next one with a higher revision."""
    await programs.add(new("1"))
    await programs.put_v2(new("a"))
    await programs.put_v2(new("b"))
    stored = await programs.promote_v2(await programs.show("p", None), "bob")
    assert (stored.program.revision, stored.v2, told(programs)) == (2, None, ("b", None))
    assert await former(programs, of_v2=False) == [(2, "b"), (1, "1")]
    assert await former(programs, of_v2=True) == [(2, "b"), (1, "a")]
    result = await programs.put_v2(new("c"))
    assert result.stored.v2 is not None
    assert (result.stored.v2.program.revision, result.is_new) == (4, True)
    assert await former(programs, of_v2=True) == [(4, "c"), (2, "b"), (1, "a")]


async def test_what_is_promoted_is_what_was_tried(programs: Programs) -> None:
    """One that has been replaced or taken back since is not promoted; the error has V2's revision in force."""
    await programs.add(new("1"))
    await programs.put_v2(new("a"))
    tried = await programs.show("p", None)
    await programs.put_v2(new("b"))
    for _ in range(2):
        with pytest.raises(StaleProgram):
            await programs.promote_v2(tried, "bob")
        await programs.put_v2(new("c"))
    assert told(programs) == ("1", "c")


async def test_neither_definition_may_part_from_the_other(programs: Programs) -> None:
    """V2's must take V1's calls when it is put, and when V1's changes; the refused change changes nothing."""
    await programs.add(new("old", required=False))
    for refused in (new("required"), new("another input", name="other")):
        with pytest.raises(IncompatibleDefinition) as error:
            await programs.put_v2(refused)
        assert error.value.field == refused.definition.signature.inputs[0].name
    await programs.put_v2(new("new", required=False))
    with pytest.raises(IncompatibleDefinition):
        await programs.put(new("V1 has another input", name="other", required=False))
    await programs.put(new("V1 needs it, V2 does not"))
    assert told(programs) == ("V1 needs it, V2 does not", "new")


async def test_of_writers_at_once_one_wins(database: Database) -> None:
    """Each on a replica of its own, with one precondition; without one, all are revisions."""
    replicas = [Programs(SqlProgramStore(database), is_shared=True) for _ in range(4)]
    await replicas[0].add(new("V1's"))
    for condition, revision in ((Precondition(must_be_new=True), 1), (Precondition(revision=1), 2)):
        outcomes = await asyncio.gather(
            *(replica.put_v2(new(f"{revision} {one}"), condition) for one, replica in enumerate(replicas)),
            return_exceptions=True,
        )
        lost = [one for one in outcomes if isinstance(one, StaleProgram)]
        assert [one.revision for one in lost] == [revision] * 3, outcomes
    await asyncio.gather(*(replica.put_v2(new(str(one))) for one, replica in enumerate(replicas)))
    assert [revision for revision, _ in await former(replicas[0], of_v2=True)] == [6, 5, 4, 3, 2, 1]


async def test_changes_of_both_definitions_at_once(database: Database) -> None:
    """Neither loses the other's, and no pair of definitions gets into force that does not fit together."""
    replicas = [Programs(SqlProgramStore(database), is_shared=True) for _ in range(2)]
    await replicas[0].add(new("V1 0", required=True))
    outcomes = await asyncio.gather(
        *(replicas[0].put(new(f"V1 {one}", required=bool(one % 2))) for one in range(1, 6)),
        *(replicas[1].put_v2(new(f"V2 {one}", required=bool(one % 2))) for one in range(1, 6)),
        return_exceptions=True,
    )
    assert all(not isinstance(one, BaseException) or isinstance(one, IncompatibleDefinition) for one in outcomes)
    now = await replicas[0].show("p", None)
    won = [one for one in outcomes if not isinstance(one, BaseException)]
    assert now.program.revision - 1 + now.v2_revision == len(won)
    if now.v2 is not None:
        v1, v2 = (one.definition.signature.inputs[0].required for one in (now.program, now.v2.program))
        assert v1 or not v2


@pytest.mark.parametrize("session", SESSIONS)
async def test_nothing_of_it_stays(programs: Programs, database: Database, session: str | None) -> None:
    """Deleted with the program, with its session, and, if an older replica deleted the program, at the next start."""

    async def kept() -> int:
        async with database.transaction() as connection:
            return len((await connection.execute(select(program_v2_revisions))).all())

    sessions = SqlSessionStore(database)
    for how in ("delete", "end", "older replica"):
        if session is None and how == "end":
            continue
        if session is not None:
            await sessions.claim(session, "alice")
        await programs.add(new("1", session))
        for one in range(KEPT_REVISIONS + 3):
            await programs.put_v2(new(f"{one}", session))
        assert await kept() == KEPT_REVISIONS - 1
        if how == "delete":
            await delete_for_good(programs, database, session=session)
        elif how == "end":
            await sessions.end(session or "")
            programs.forget_session(session or "")
        else:
            async with database.transaction() as connection:
                await connection.execute(rows.delete())
            await programs.load()
        assert await kept() == 0
        assert programs.resolve("p", session) is None
        assert programs._usage._all_bytes == 0


async def test_its_bytes_count(database: Database) -> None:
    """A definition of V2's is over the quota as V1's would be, and its place is free when it is taken back."""
    size = 300
    store = SqlProgramStore(database)
    programs = Programs(store, is_shared=True, quotas=Quotas(definition_bytes=3 * size))
    await programs.add(new("x"))
    await programs.put_v2(new("y" * size))
    with pytest.raises(QuotaExceeded):
        await programs.put_v2(new("z" * 3 * size))
    assert told(programs) == ("x", "y" * size)
    await programs.take_back_v2(await programs.show_own("p", None))
    await programs.promote_v2((await programs.put_v2(new("y" * size))).stored, None)
    assert programs._usage._all_bytes == in_memory(programs).size


async def test_one_of_a_newer_version_is_left_out(programs: Programs, database: Database) -> None:
    """A definition that this replica cannot run: V2 runs V1's here, and the program stays."""
    await programs.add(new("old"))
    await programs.put_v2(new("new"))
    async with database.transaction() as connection:
        await connection.execute(update(rows).values(v2_definition='{"program_type": "quantum"}', v2_revision=2))
    await programs.load()
    assert told(programs) == ("old", None)


async def test_a_digest_tells_what_is_on_trial(database: Database) -> None:
    """Each act on a definition of V2's own, or on V1's beside it, changes it; so do a deletion and what comes back.

    A restart finds the same. Definitions that both versions run, and those of sessions, are no part of it.
    """
    programs, deleted = Programs(SqlProgramStore(database)), SqlDeletedProgramStore(database)
    seen: list[Mapping[str, str]] = [{}]

    async def is_new(what: str) -> None:
        found, others = dict(programs.on_trial), Programs(SqlProgramStore(database))
        await others.load()
        assert others.on_trial == found, what
        assert found not in seen or found == {} != seen[-1], what
        seen.append(found)

    await programs.add(new("old"))
    await programs.put(new("older"))
    for session in ("s", "t"):
        await programs.add(new("old", session))
        await programs.put_v2(new("new", session))
    assert programs.on_trial == {}
    await programs.put_v2(new("new"))
    await is_new("V2 gets its own")
    await programs.put_v2(new("newer"))
    await is_new("another one")
    await programs.put(new("V1's"))
    await is_new("V1's beside it")
    await programs.promote_v2(await programs.show("p", None), "alice")
    await is_new("promoted")
    await programs.demote(await programs.show("p", None), "alice")
    assert dict(programs.on_trial) == seen[-2], "demoted: the trial of before"
    await programs.take_back_v2(await programs.show("p", None))
    assert programs.on_trial == {}
    await programs.put_v2(new("last"))
    await is_new("given again")
    stored = await programs.show("p", None)
    assert await deleted.delete(stored.program.key, Editor("alice"), is_final=False)
    programs.forget("p", None)
    await is_new("deleted")
    back = await deleted.restore(stored, None)
    assert back is not None
    programs.take([back])
    assert dict(programs.on_trial) == seen[-2], "restored: the trial of before"
