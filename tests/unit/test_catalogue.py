"""The catalogue: what it knows of a program stays one thing, however often it is read from the store."""

import gc
from datetime import UTC, datetime

import pytest

from poolshift.worker.definitions import Definition, Field, Signature
from routing.catalog.programs import NewProgram, Programs
from routing.errors import ProgramNotFound
from store.database import Database
from store.program_store import SqlProgramStore
from tests.support.deletions import delete_for_good

pytestmark = pytest.mark.anyio
NOW = datetime.now(UTC).timestamp()


def definition(name: str = "text") -> Definition:
    """Each time another object."""
    return Definition("python", Signature((Field(name, "string"),), ()), "examples.text:keywords")


@pytest.fixture
async def programs(database: Database) -> Programs:
    return Programs(SqlProgramStore(database), is_shared=True)


@pytest.mark.parametrize("session", [None, "a-session"])
async def test_no_count_is_lost_while_a_program_is_read_anew(programs: Programs, session: str | None) -> None:
    """A replica hears of its own programs too, several calls may seek one at once, a lost connection means a reload."""
    await programs.add(NewProgram("p", session, definition()))

    def call() -> None:
        program = programs.resolve("p", session)
        assert program is not None
        programs.used(program, NOW)

    call()
    await programs.refresh("p", session)
    call()
    programs.used(await programs.seek("p", session), NOW)
    await programs.load()
    call()
    await programs.load()
    call()
    assert (await programs.show("p", session)).execution_count == 5


async def test_one_that_is_made_anew_counts_from_nothing(programs: Programs, database: Database) -> None:
    """Whatever was counted of the one before."""
    await programs.add(NewProgram("p", None, definition()))
    before = programs.resolve("p", None)
    assert before is not None
    programs.used(before, NOW)
    await delete_for_good(programs, database)
    with pytest.raises(ProgramNotFound):
        await programs.seek("p", None)
    await programs.add(NewProgram("p", None, definition("other")))
    programs.used(before, NOW)  # a call that had begun
    after = programs.resolve("p", None)
    assert after is not None
    assert after.definition.signature.inputs[0].name == "other"
    assert (await programs.show("p", None)).execution_count == 0


async def test_programs_that_differ_by_name_alone_share_a_definition(programs: Programs, database: Database) -> None:
    """Which is forgotten with the last of them."""
    for name in ("a", "b"):
        await programs.add(NewProgram(name, None, definition()))
    await programs.add(NewProgram("c", None, definition("other")))
    a, b, c = (programs.resolve(name, None) for name in "abc")
    assert a is not None
    assert b is not None
    assert c is not None
    assert a.definition is b.definition
    assert a.definition is not c.definition
    for name in ("a", "b"):
        await delete_for_good(programs, database, name)
    del a, b
    gc.collect()
    assert len(programs._definitions) == 1
