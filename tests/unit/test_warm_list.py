"""The programs that workers are warmed for, and the modules that a first zygote imports for them."""

import time

import pytest

from pools.process.program_code import MAX_RECENT, RecentModules
from poolshift.worker.definitions import Definition, Field, Signature
from poolshift.worker.loading import DSPY_PROGRAMS
from routing.catalog import warm_list
from routing.catalog.programs import NewProgram, Programs
from routing.catalog.warm_list import LATELY_S, WarmList
from routing.versions import Version
from store.database import Database
from store.program_store import SqlProgramStore

pytestmark = pytest.mark.anyio


def definition(name: str) -> Definition:
    """A definition that differs by its input."""
    return Definition("python", Signature((Field(name, "string"),), ()), "examples.text:keywords")


async def catalogue(database: Database) -> Programs:
    """A catalogue as a start finds it."""
    programs = Programs(SqlProgramStore(database))
    await programs.load()
    return programs


def use(programs: Programs, name: str, times: int, at: float) -> None:
    """Counts executions."""
    program = programs.resolve(name, None)
    assert program is not None
    for _ in range(times):
        programs.used(program, at)


async def test_what_was_used_lately_comes_first_after_a_restart(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most used first; nothing of a session, nothing that was used a day ago, nothing that nobody has used."""
    monkeypatch.setattr(warm_list, "FRESH_S", 0.0)
    monkeypatch.setattr(warm_list, "FRESH_SHARE", 0.0)
    now = time.monotonic()
    programs = await catalogue(database)
    for name in ("rare", "often", "old", "unused"):
        await programs.add(NewProgram(name, None, definition(name)))
    await programs.add(NewProgram("own", "a-session", definition("own")))
    use(programs, "rare", 1, now)
    use(programs, "often", 3, now)
    use(programs, "old", 9, now - LATELY_S - 1)
    await programs.flush()
    programs = await catalogue(database)
    warm = WarmList(programs)
    assert [program.id for program in warm.of(Version.V1)] == ["often", "rare"]
    use(programs, "rare", 5, now)
    await programs.flush()
    assert [program.id for program in warm.of(Version.V1)] == ["rare", "often"]


async def test_what_changes_is_for_its_version(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """V2's own definition for V2 alone; a new program behind those that were used."""
    monkeypatch.setattr(warm_list, "FRESH_S", 0.0)
    monkeypatch.setattr(warm_list, "FRESH_SHARE", 0.0)
    programs = await catalogue(database)
    warm = WarmList(programs)
    await programs.add(NewProgram("used", None, definition("text")))
    use(programs, "used", 1, time.monotonic())
    await programs.add(NewProgram("new", None, definition("other")))
    assert [program.id for program in warm.of(Version.V2)] == ["used", "new"]
    own = Definition("python", Signature((Field("text", "string", "V2's"),), ()), "examples.text:keywords")
    await programs.put_v2(NewProgram("used", None, own))
    of_v1, of_v2 = warm.of(Version.V1)[0], warm.of(Version.V2)[0]
    assert (of_v1.id, of_v2.id) == ("used", "used")
    assert of_v1.definition.signature.inputs[0].description is None
    assert of_v2.definition.signature.inputs[0].description == "V2's"


def test_seeds_are_modules_that_programs_may_come_from() -> None:
    """The most used is the newest; there are no more than a zygote imports, and none that is no longer allowed."""
    named = [f"shop.m{number}:run" for number in range(MAX_RECENT + 1)]
    seeds = [Definition("python", Signature((), ()), entrypoint) for entrypoint in ("other:run", *named)]
    names = RecentModules(seeds, ("shop",)).names()
    assert len(names) == MAX_RECENT
    assert names[-1] == "shop.m0"
    assert RecentModules([Definition("predict", Signature((), ()))], ("shop",)).names() == (DSPY_PROGRAMS,)
