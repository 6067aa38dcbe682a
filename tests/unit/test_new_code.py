"""New code is tried on the programs of everyone: which, in which order, and for how long."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from app.positions.new_code import Broken, CodeTrial, Found, ProgramsWouldBreak
from pools.calls import Program
from pools.errors import SpawnFailed
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.loading import EntrypointError
from routing.catalog.programs import CataloguedProgram, StoredProgram
from routing.versions import Version

pytestmark = pytest.mark.anyio


def definition(entrypoint: str) -> Definition:
    return Definition("python", Signature((), ()), entrypoint)


def program(name: str, called_at: float = 0.0, shared: Definition | None = None) -> CataloguedProgram:
    """A program that was called last at `called_at`, by the monotonic clock."""
    loaded = shared or definition(f"shop:{name}")
    catalogued = CataloguedProgram(
        StoredProgram(Program(f"key of {name}", name, loaded), None, datetime.now(UTC)), loaded, 100
    )
    if called_at:
        catalogued.used(called_at)
    return catalogued


class Code:
    """Code that lacks some entrypoints, and notes which were loaded."""

    def __init__(self, *lacking: str, fault: type[Exception] = EntrypointError) -> None:
        self.loaded: list[str] = []
        self._lacking = lacking
        self._fault = fault

    async def load(self, tried: Definition) -> None:
        assert tried.entrypoint is not None
        name = tried.entrypoint.partition(":")[2]
        self.loaded.append(name)
        await asyncio.sleep(0)
        if name in self._lacking:
            raise self._fault(f"no {name}")


async def trial(
    programs: Sequence[CataloguedProgram],
    new: Code,
    present: Code,
    version: Version = Version.V1,
    limit_s: float = 60.0,
) -> Found:
    return await CodeTrial(programs, version, limit_s).run(new.load, present.load)


async def test_what_loaded_before_and_does_not_now_is_broken() -> None:
    """Present code is asked for what new code does not load alone; if it cannot tell, the program counts as broken."""
    programs = [program(name) for name in ("a", "b", "c")]
    present = Code("c")
    found = await trial(programs, Code("b", "c"), present)
    assert found == Found((Broken("b", "no b"),), tried=3, untried=0)
    assert sorted(present.loaded) == ["b", "c"]
    unknown = await trial(programs, Code("c"), Code("c", fault=SpawnFailed))
    assert unknown.broken == (Broken("c", "no c"),)


async def test_the_definition_of_the_version_is_tried_those_called_last_first() -> None:
    """A definition that programs share is tried once, and breaks all of them."""
    programs = [program("a"), program("b", 3.0), program("c", 7.0), program("d", shared=definition("shop:d"))]
    programs.append(program("e", 5.0, shared=programs[3].definition))
    programs[0].v2 = Program("own key", "a", definition("shop:own"), 1, Version.V2)
    code = {version: Code("d") for version in Version}
    for version in Version:
        found = await trial(programs, code[version], Code(), version)
        assert found.broken == (Broken("e", "no d"), Broken("d", "no d"))
    assert code[Version.V1].loaded == ["c", "d", "b", "a"]
    assert code[Version.V2].loaded == ["c", "d", "b", "own"]


async def test_nothing_is_begun_after_the_time() -> None:
    """The outcome counts what was not tried."""
    assert await trial([program("a"), program("b")], Code("a"), Code(), limit_s=-1.0) == Found((), 0, 2)


async def test_no_worker_with_the_new_code_ends_the_trial() -> None:
    """The others are not tried any more."""
    new = Code("a", fault=SpawnFailed)
    with pytest.raises(SpawnFailed, match="no a"):
        await trial([program(name) for name in "abcdef"], new, Code())
    assert len(new.loaded) <= 3


def test_a_refusal_names_programs_and_stays_short() -> None:
    """However many there are."""
    one = ProgramsWouldBreak([Broken("a", "no a")])
    assert str(one) == "a program does not load with the new code (a: no a)"
    many = ProgramsWouldBreak([Broken(f"p{number}", "gone") for number in range(200)])
    assert str(many).startswith("200 programs do not load with the new code (p0: gone; p1: gone; ")
    assert str(many).endswith("p4: gone; and 195 more)")
    assert len(many.broken) == 100
