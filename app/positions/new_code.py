"""Tries new code on the programs of everyone, before any worker of a pool has it."""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pools.errors import SpawnFailed
from pools.process.interface import Loads
from poolshift.worker.definitions import Definition
from poolshift.worker.loading import EntrypointError
from routing.catalog.programs import CataloguedProgram
from routing.versions import Version

MAX_TRIED: Final = 500
"""Definitions that one reload tries, those of the programs that were called last."""
AT_ONCE: Final = 2
"""Definitions that are tried at once, each in a process of its own."""
MAX_NAMED: Final = 100
"""Programs that a refusal names."""
NOTHING: Final[Mapping[str, Definition]] = MappingProxyType({})
_NAMED_IN_DETAIL: Final = 5


@dataclass(frozen=True, slots=True)
class Broken:
    """A program that the present code loads and the new code does not."""

    program_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome for the programs: those that break, the number of those that load, and of those not tried."""

    broken: tuple[Broken, ...] = ()
    tried: int = 0
    untried: int = 0


class ProgramsWouldBreak(SpawnFailed):
    """The new code does not load programs that the present code loads."""

    def __init__(self, broken: Sequence[Broken]) -> None:
        super().__init__(told_broken(broken, "the new code"))
        self.broken = tuple(broken[:MAX_NAMED])


def told_broken(broken: Sequence[Broken], code: str) -> str:
    """Says that programs do not load with some code, and names a few."""
    shown = "; ".join(f"{one.program_id}: {one.reason}" for one in broken[:_NAMED_IN_DETAIL])
    more = f"; and {len(broken) - _NAMED_IN_DETAIL} more" if len(broken) > _NAMED_IN_DETAIL else ""
    programs = "a program does" if len(broken) == 1 else f"{len(broken)} programs do"
    return f"{programs} not load with {code} ({shown}{more})"


@dataclass(slots=True)
class _Tried:
    """A definition, the one that is in force in its place, and the programs that have both."""

    definition: Definition
    present: Definition
    program_ids: list[str] = field(default_factory=list)


class CodeTrial:
    """Loads the programs' definitions of one version, a few at once, until they are all tried or the time is up."""

    def __init__(
        self,
        programs: Iterable[CataloguedProgram],
        version: Version,
        limit_s: float,
        instead: Mapping[str, Definition] = NOTHING,
    ) -> None:
        """Takes the programs that were called last first; begins no definition after `limit_s` seconds.

        `instead` has, by the key of a program, the definition that the new code is to load in place of the present one.
        """
        by_use = sorted(programs, key=lambda program: program.last_executed_at, reverse=True)
        definitions: dict[int, _Tried] = {}  # programs that differ by name alone share a definition
        for program in by_use:
            own = program.v2 if version is Version.V2 else None
            present = (own or program).definition
            definition = instead.get(program.key, present)
            definitions.setdefault(id(definition), _Tried(definition, present)).program_ids.append(program.id)
        self._all = list(definitions.values())
        self._limit_s = limit_s
        self._until = math.inf
        self._tried = 0
        self._broken: list[Broken] = []

    def __repr__(self) -> str:
        return f"<CodeTrial of={len(self._all)} tried={self._tried} broken={len(self._broken)}>"

    async def run(self, new: Loads, present: Loads) -> Found:
        """Tries the definitions. Raises SpawnFailed if no worker with the new code can be started."""
        self._until = time.monotonic() + self._limit_s
        waiting = iter(self._all[:MAX_TRIED])
        turns = [self._take_turns(waiting, new, present) for _ in range(AT_ONCE)]
        for outcome in await asyncio.gather(*turns, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return Found(tuple(self._broken), self._tried, len(self._all) - self._tried)

    async def _take_turns(self, waiting: Iterable[_Tried], new: Loads, present: Loads) -> None:
        try:
            for one in waiting:
                if time.monotonic() >= self._until:
                    return
                await self._try(one, new, present)
        except BaseException:
            self._until = -math.inf  # the others begin no other one
            raise

    async def _try(self, one: _Tried, new: Loads, present: Loads) -> None:
        try:
            await new(one.definition)
        except EntrypointError as error:
            if await _has_loaded(present, one.present):
                self._broken += [Broken(program_id, str(error)) for program_id in one.program_ids]
        self._tried += 1


async def _has_loaded(present: Loads, definition: Definition) -> bool:
    """Tells if the present code loads a definition; if nobody can tell, it does."""
    try:
        await present(definition)
    except EntrypointError:
        return False
    except SpawnFailed:
        return True
    return True
