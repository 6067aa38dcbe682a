"""The programs with traffic that V2 has run often enough to be judged by, and those that it has not."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.names import first_of
from routing.rollout.live_judge import LiveJudge

TRAFFIC_S: Final = 86_400.0
"""Seconds: a program with an execution within them has traffic."""
MIN_CALLS: Final = 50
"""Calls or copies of a program on V2 that are enough, unless a plan says otherwise."""
MAX_NAMED: Final = 5
"""Programs that a sentence names."""
MAX_AGE_S: Final = 5.0
"""Seconds for which one look at the store serves those who ask again and again."""


@dataclass(frozen=True, slots=True)
class ProgramRuns:
    """A program with traffic, and its runs on the V2 that is on trial."""

    program_id: str
    calls: int
    """Organic calls."""
    copies: int
    """Shadow calls that have been compared."""

    @property
    def runs(self) -> int:
        """All of them."""
        return self.calls + self.copies


@dataclass(frozen=True, slots=True)
class Coverage:
    """All programs with traffic in the last 24 h."""

    programs: tuple[ProgramRuns, ...]

    @property
    def never_run(self) -> list[str]:
        """The programs that V2 has never run."""
        return [one.program_id for one in self.programs if not one.runs]

    def short_of(self, min_calls: int) -> list[ProgramRuns]:
        """The programs with too few runs on V2, those with the fewest first."""
        return sorted((one for one in self.programs if one.runs < min_calls), key=lambda one: one.runs)

    def missing(self, share: float, min_calls: int) -> str | None:
        """Tells which programs have too few runs, if fewer than `share` of all have enough."""
        short = self.short_of(min_calls)
        needed = math.ceil(share * len(self.programs) - 1e-9)
        if len(self.programs) - len(short) >= needed:
            return None
        named = first_of([f"{one.program_id} ({one.runs} of {min_calls})" for one in short], MAX_NAMED, "others")
        return f"V2 has run too few calls: of {len(short)} of {len(self.programs)} programs with traffic, {named}"

    def never_run_text(self) -> str | None:
        """Names the programs that V2 has never run, if there are any."""
        if not (never := self.never_run):
            return None
        return (
            f"V2 has never run {len(never)} of {len(self.programs)} programs with traffic in the last 24 h: "
            f"{first_of(never, MAX_NAMED, 'others')}"
        )


async def no_programs(_: float) -> Sequence[str]:
    """Knows of no program."""
    return ()


class CoverageView:
    """Looks at the coverage: at the programs of the store, at the judge's calls and at the shadow calls."""

    def __init__(self, judge: LiveJudge, used_since: Callable[[float], Awaitable[Sequence[str]]] = no_programs) -> None:
        """Asks `used_since` for the ids of programs with an execution in the last seconds."""
        self._judge = judge
        self._used_since = used_since
        self.copies: Callable[[], Mapping[str, int]] = dict
        """Counts the shadow calls that have been compared, by program."""
        self.latest: Coverage | None = None
        """The coverage at the last look; None before the first."""
        self._programs: Sequence[str] = ()
        self._as_of = -math.inf
        self._looking = asyncio.Lock()

    async def look(self, since_promotion: Mapping[str, int] | None = None, *, max_age_s: float = MAX_AGE_S) -> Coverage:
        """Looks now; the programs are those of `max_age_s` seconds ago at the most.

        Takes V2's calls by program since it has all of them, which no judge counts. Raises StoreUnavailable.
        """
        async with self._looking:
            if time.monotonic() - self._as_of > max_age_s:
                self._programs = await self._used_since(TRAFFIC_S)
                self._as_of = time.monotonic()
        judged, copies, later = self._judge.v2_programs(), self.copies(), since_promotion or {}
        self.latest = Coverage(
            tuple(
                ProgramRuns(one, judged.get(one, 0) + later.get(one, 0), copies.get(one, 0)) for one in self._programs
            )
        )
        return self.latest
