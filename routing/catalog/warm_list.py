"""The programs that workers are warmed for: global ones that were used lately, on any version, the most used first."""

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pools.calls import Program
from routing.catalog.programs import CataloguedProgram, Programs
from routing.versions import Version

LATELY_S: Final = 24 * 3600.0
"""A program counts for so long after its last execution, or after it was registered or changed here, in seconds."""
MAX_PROGRAMS: Final = 100
"""The programs of one list."""
FRESH_S: Final = 1.0
"""A list is kept for so long at least, and for `FRESH_SHARE` times as long as it took to make, in seconds."""
FRESH_SHARE: Final = 100.0


class WarmList:
    """Ranks the programs of the catalogue by use. Asking again soon costs nothing, however many programs there are."""

    def __init__(self, programs: Programs, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the clock that executions are noted by, in seconds."""
        self._programs = programs
        self._clock = clock
        self._ranked: Mapping[Version, Sequence[Program]] = {}
        self._fresh_until = 0.0
        """By `time.monotonic`."""

    def __repr__(self) -> str:
        return f"<WarmList { ({str(version): len(programs) for version, programs in self._ranked.items()}) }>"

    def of(self, version: Version) -> Sequence[Program]:
        """The programs with the definitions that calls of `version` run."""
        began = time.monotonic()
        if began >= self._fresh_until:
            self._ranked = self._rank()
            ended = time.monotonic()
            self._fresh_until = ended + max(FRESH_S, FRESH_SHARE * (ended - began))
        return self._ranked[version]

    def _rank(self) -> Mapping[Version, Sequence[Program]]:
        oldest = self._clock() - LATELY_S
        lately = (one for one in self._programs.of_everyone() if _last_at(one) > oldest)
        ranked = heapq.nlargest(MAX_PROGRAMS, lately, key=lambda one: (one.execution_count, one.changed_at))
        return {Version.V1: ranked, Version.V2: [one.v2 or one for one in ranked]}


def _last_at(program: CataloguedProgram) -> float:
    return max(program.last_executed_at, program.changed_at)
