"""A program's definition is replaced in one row: by one of several writers, within the quotas, with what was before."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select, text

from pools.calls import Program
from poolshift.worker.definitions import Definition, Field, Signature
from routing.catalog.definitions import decode_definition, encode_definition
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, Programs, PutResult, StoredProgram
from routing.catalog.quotas import Quotas
from routing.catalog.revisions import ANY_STATE, KEPT_REVISIONS, Precondition, RevisionPage
from routing.errors import ProgramNotFound, QuotaExceeded, StaleProgram
from store.database import Database
from store.program_store import SqlProgramStore
from store.session_store import SqlSessionStore
from store.tables import program_revisions
from tests.support.deletions import delete_for_good

pytestmark = pytest.mark.anyio
NOW = datetime.now(UTC).timestamp()
SESSIONS = [None, "a-session"]


def new(instructions: str, session: str | None = None) -> NewProgram:
    """A definition of its own for each text; each time another object."""
    signature = Signature((Field("text", "string"),), ())
    definition = Definition("python", signature, "examples.text:keywords", instructions)
    return NewProgram("p", session, definition, Editor(f"by {instructions}"[:9]))


@pytest.fixture
async def programs(database: Database) -> Programs:
    return Programs(SqlProgramStore(database), is_shared=True)


async def revisions(programs: Programs, session: str | None = None, before: int | None = None) -> RevisionPage:
    return await programs.revisions("p", session, limit=100, max_bytes=1024**2, before=before)


def in_memory(programs: Programs, session: str | None = None) -> Program:
    program = programs.resolve("p", session)
    assert program is not None
    return program


async def kept_rows(database: Database) -> int:
    async with database.transaction() as connection:
        return (await connection.execute(select(func.count()).select_from(program_revisions))).scalar_one()


@pytest.mark.parametrize("session", SESSIONS)
async def test_a_definition_is_replaced_and_the_program_stays(programs: Programs, session: str | None) -> None:
    """Key, creation and counts are those of before; the revision, the definition and its quarantine are new."""
    created = await programs.put(new("first", session))
    assert (created.is_new, created.stored.program.revision) == (True, 1)
    before = programs.resolve("p", session)
    assert before is not None
    programs.used(before, NOW)
    replaced = await programs.put(new("second", session))
    assert (replaced.is_new, replaced.stored.program.revision) == (False, 2)
    after = programs.resolve("p", session)
    assert after is not None
    assert (after.key, after.revision, after.definition.instructions) == (before.key, 2, "second")
    assert (before.revision, before.definition.instructions) == (1, "first")
    assert after.quarantine_key != before.quarantine_key
    programs.used(after, NOW + 2)
    programs.used(before, NOW + 1)  # a call that had begun
    shown = await programs.show("p", session)
    assert (shown.execution_count, shown.created_at) == (3, created.stored.created_at)


async def test_the_definition_in_force_is_no_revision(programs: Programs, database: Database) -> None:
    """A change that changes nothing, of a program with a default and a state, leaves the row and the object alone."""
    inputs = [{"name": "a", "type": "array", "required": False, "default": [1, {"b": 2.0}]}]
    signature = {"inputs": inputs, "outputs": []}
    wanted = json.dumps({"program_type": "predict", "signature": signature, "state": {"demos": [{"x": 1}]}})
    first = await programs.put(NewProgram("p", None, decode_definition(wanted)))
    known = in_memory(programs)
    again = await programs.put(
        NewProgram("p", None, decode_definition(encode_definition(first.stored.program.definition)))
    )
    assert (again.is_new, again.stored.program.revision) == (False, 1)
    assert in_memory(programs) is known
    assert await kept_rows(database) == 0


async def test_of_writers_at_once_one_wins(database: Database) -> None:
    """Each on a replica of its own, with one precondition; the others learn the revision in force."""
    replicas = [Programs(SqlProgramStore(database), is_shared=True) for _ in range(4)]
    conditions = [(Precondition(must_be_new=True), 1), (Precondition(must_exist=True, revision=1), 2)]
    for condition, revision in conditions:
        outcomes = await asyncio.gather(
            *(replica.put(new(f"{revision} {number}"), condition) for number, replica in enumerate(replicas)),
            return_exceptions=True,
        )
        won = [outcome for outcome in outcomes if isinstance(outcome, PutResult)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, StaleProgram)]
        assert (len(won), len(lost)) == (1, 3), outcomes
        assert won[0].stored.program.revision == revision
        assert {error.revision for error in lost} == {revision}


async def test_without_a_precondition_nobody_loses(database: Database) -> None:
    """Revisions count up without a gap, whoever writes them, and each writer's definition is one of them."""
    replicas = [Programs(SqlProgramStore(database), is_shared=True) for _ in range(4)]
    results = await asyncio.gather(*(replica.put(new(str(number))) for number, replica in enumerate(replicas)))
    assert sorted(result.stored.program.revision for result in results) == [1, 2, 3, 4]
    page = await revisions(replicas[0])
    assert [one.revision for one in page.revisions] == [4, 3, 2, 1]
    told = [decode_definition(bytes(one.definition)).instructions for one in page.revisions]
    assert sorted(told, key=str) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("condition", "revision", "holds"),
    [
        (ANY_STATE, None, True),
        (ANY_STATE, 3, True),
        (Precondition(must_be_new=True), None, True),
        (Precondition(must_be_new=True), 1, False),
        (Precondition(must_exist=True), None, False),
        (Precondition(must_exist=True), 3, True),
        (Precondition(revision=3), 3, True),
        (Precondition(revision=3), 2, False),
        (Precondition(revision=3), None, False),
    ],
)
def test_preconditions(condition: Precondition, revision: int | None, *, holds: bool) -> None:
    """Each condition against a program at a revision, or a missing one."""
    if holds:
        condition.check("p", revision)
        return
    with pytest.raises(StaleProgram) as stale:
        condition.check("p", revision)
    assert stale.value.revision == revision


async def test_old_revisions_are_dropped(programs: Programs, database: Database) -> None:
    """The newest ones are kept, with who made them and when, page by page."""
    for number in range(KEPT_REVISIONS + 5):
        await programs.put(new(f"{number}"))
    page = await revisions(programs)
    newest = KEPT_REVISIONS + 5
    assert [one.revision for one in page.revisions] == list(range(newest, newest - KEPT_REVISIONS, -1))
    assert [one.created_by for one in page.revisions[:2]] == [f"by {newest - 1}", f"by {newest - 2}"]
    moments = [one.created_at for one in page.revisions]
    assert moments == sorted(moments, reverse=True)
    assert await kept_rows(database) == KEPT_REVISIONS - 1
    size = len(page.revisions[0].definition)
    first = await programs.revisions("p", None, limit=100, max_bytes=2 * size, before=None)
    assert (len(first.revisions), first.has_more) == (2, True)
    second = await programs.revisions("p", None, limit=2, max_bytes=100 * size, before=first.revisions[-1].revision)
    assert [one.revision for one in second.revisions] == [newest - 2, newest - 3]


@pytest.mark.parametrize("session", SESSIONS)
async def test_revisions_end_with_their_program(programs: Programs, database: Database, session: str | None) -> None:
    """By its own end or by its session's; a program of the same name begins at revision 1."""
    for text_ in ("first", "second"):
        await programs.put(new(text_, session))
    if session is None:
        await delete_for_good(programs, database)
    else:
        async with database.transaction() as connection:
            moment = "'2026-01-01 00:00:00.000000'"
            columns = "id, created_at, last_seen_at, execution_count"
            await connection.execute(
                text(f"INSERT INTO sessions ({columns}) VALUES ('a-session', {moment}, {moment}, 1)")
            )
        assert await SqlSessionStore(database).end("a-session")
        programs.forget_session("a-session")
    assert await kept_rows(database) == 0
    with pytest.raises(ProgramNotFound):
        await revisions(programs, session)
    with pytest.raises(StaleProgram):
        await programs.put(new("third", session), Precondition(revision=2))
    assert (await programs.put(new("third", session))).stored.program.revision == 1


async def test_an_older_reply_of_the_store_changes_nothing(programs: Programs, database: Database) -> None:
    """A replica may read a program before a change, and get the answer after it."""

    class Late(SqlProgramStore):
        """Gives the reply of before."""

        async def find(self, program_id: str, session_id: str | None) -> StoredProgram:
            return first.stored

    first = await programs.put(new("first"))
    await programs.put(new("second"))
    programs._store = Late(database)
    await programs.refresh("p", None)
    assert in_memory(programs).definition.instructions == "second"


async def test_another_replicas_change_is_followed(database: Database) -> None:
    """Memory has the new definition as soon as the replica has heard of it, as another object."""
    one, other = (Programs(SqlProgramStore(database), is_shared=True) for _ in range(2))
    await one.put(new("first"))
    await other.load()
    before = in_memory(other)
    await one.put(new("second"))
    await other.refresh("p", None)
    assert in_memory(other).definition is not before.definition
    assert in_memory(other).definition.instructions == "second"


async def test_an_older_replicas_program_is_at_revision_1(programs: Programs, database: Database) -> None:
    """The row of such a program has no revision; a change keeps the definition before, with the program's creation."""
    definition = encode_definition(new("first").definition).decode()
    columns = "session_id, id, definition, created_at, execution_count"
    values = f"'', 'p', '{definition}', '2026-01-01 00:00:00.000000', 7"
    async with database.transaction() as connection:
        await connection.execute(text(f"INSERT INTO programs ({columns}) VALUES ({values})"))
    await programs.load()
    assert in_memory(programs).revision == 1
    with pytest.raises(StaleProgram):
        await programs.put(new("second"), Precondition(revision=2))
    assert (await programs.put(new("second"), Precondition(revision=1))).stored.execution_count == 7
    second, first = (await revisions(programs)).revisions
    assert (second.revision, second.created_by) == (2, "by second")
    assert (first.revision, first.created_by, first.created_at.year) == (1, None, 2026)


@pytest.mark.parametrize("session", SESSIONS)
async def test_quotas_count_the_new_size_alone(database: Database, session: str | None) -> None:
    """A replacement needs room for what it has more; one that is smaller needs none; neither is another program."""
    size = len(encode_definition(new("").definition))
    quotas = Quotas(
        programs=1, programs_per_session=1, definition_bytes=size + 100, definition_bytes_per_session=size + 100
    )
    programs = Programs(SqlProgramStore(database), quotas=quotas)
    for length in (60, 100, 10, 100):
        await programs.put(new("x" * (length - 17), session))  # 17 bytes are the member itself
    with pytest.raises(QuotaExceeded) as exceeded:
        await programs.put(new("x" * 200, session))
    assert "DEFINITION_BYTES" in exceeded.value.quota
    assert len(in_memory(programs, session).definition.instructions or "") == 83
    lower = Programs(SqlProgramStore(database), quotas=Quotas(definition_bytes=1))
    await lower.load()
    await lower.put(new("smaller", session))
    with pytest.raises(QuotaExceeded):
        await lower.add(NewProgram("q", session, new("a").definition))
