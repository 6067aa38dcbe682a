"""Sessions that ended lately and held programs or an LM of their own.

Without them a call of such a session would silently get the global program's answer, by everyone's LM and its key. A
session that has one of its things again has begun again. What else it lost is remembered until it has that again, too.
"""

import time
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from routing.catalog.owners import Caller
from routing.errors import SessionEnded

REMEMBERED: Final = timedelta(days=7)
MAX_REMEMBERED: Final = 100_000
"""Sessions that are remembered, in 30 MB of memory. The ones that ended first are forgotten before others."""
MAX_PROGRAMS: Final = 500_000
"""Ids of lost programs that are remembered, in 60 MB of memory. Here, too, the sessions that ended first go first."""


class EndedSession(NamedTuple):
    """A session that has ended."""

    id: str
    ended_at: datetime
    owner: str | None
    had_own: bool
    """True if the session held programs or an LM of its own: then it is remembered."""
    ended_s: float = 0.0
    """Seconds since its end, when it was read."""
    programs: frozenset[str] = frozenset()
    """The ids of the programs that it held, without those that it has again."""
    had_lm: bool = False
    """True if it held an LM, and has none again."""
    has_begun_again: bool = False
    """True if it has something of its own again."""

    def with_again(self, programs: Collection[str], *, has_lm: bool) -> "EndedSession":
        """Returns the session as it is once it has these of its things again."""
        return self._replace(
            programs=self.programs.difference(programs), had_lm=self.had_lm and not has_lm, has_begun_again=True
        )

    @property
    def has_everything(self) -> bool:
        """True if the session has begun again, and lacks nothing that it had."""
        return self.has_begun_again and not self.programs and not self.had_lm


class EndedSessions:
    """The ended sessions that are remembered, in memory; the store has them too."""

    def __init__(self) -> None:
        self._known: dict[str, EndedSession] = {}
        """In the order of their ends."""
        self._ends: dict[str, float] = {}
        """The time of each end, by the monotonic clock."""
        self._programs = 0
        """The lost programs of all."""

    def __contains__(self, session_id: str) -> bool:
        """Tells if a session has ended, and not begun again."""
        ended = self._known.get(session_id)
        return ended is not None and not ended.has_begun_again

    def load(self, ended: Iterable[EndedSession]) -> None:
        """Takes the place of what is known by what the store has, in the order of their ends."""
        self._known.clear()
        self._ends.clear()
        self._programs = 0
        for one in ended:
            self.remember(one)

    def remember(self, ended: EndedSession) -> None:
        """Remembers a session that has just ended, if it held anything of its own."""
        if not ended.had_own:
            return
        self.forget(ended.id)
        self._known[ended.id] = ended
        self._ends[ended.id] = time.monotonic() - ended.ended_s
        self._programs += len(ended.programs)
        while len(self._known) > MAX_REMEMBERED or (self._programs > MAX_PROGRAMS and len(self._known) > 1):
            self.forget(next(iter(self._known)))

    def begun_again(self, ended: EndedSession | None, session_id: str) -> None:
        """Takes note of what a session, which has something of its own again, still lacks; None is nothing."""
        if ended is None or session_id not in self._known:
            self.forget(session_id)
            return
        self._programs += len(ended.programs) - len(self._known[session_id].programs)
        self._known[session_id] = ended  # in the place that it has by its end

    def forget(self, session_id: str) -> None:
        """Forgets a session that has all of its things again, or is another owner's."""
        ended = self._known.pop(session_id, None)
        self._ends.pop(session_id, None)
        self._programs -= 0 if ended is None else len(ended.programs)

    def sweep(self) -> None:
        """Forgets the sessions that ended too long ago."""
        oldest = time.monotonic() - REMEMBERED.total_seconds()
        while self._known and self._ends[first := next(iter(self._known))] < oldest:
            self.forget(first)

    def has(self, session_id: str, caller: Caller) -> bool:
        """Tells if `caller` had the session that has ended: to others its id is a new one."""
        return session_id in self and caller.may_see(self._known[session_id].owner)

    def is_known(self, session_id: str) -> bool:
        """Tells if a session has ended, and lacks something that it had, although it may have begun again."""
        return session_id in self._known

    def is_of(self, session_id: str, caller: Caller) -> bool:
        """Tells if a session that is known was one that `caller` may see."""
        return caller.may_see(self._known[session_id].owner)

    def error(self, session_id: str) -> SessionEnded:
        """Makes the error for a call of a session that has ended."""
        return SessionEnded(session_id, self._known[session_id].ended_at)

    def loss(self, session_id: str, caller: Caller, program_id: str, *, needs_lm: bool) -> SessionEnded | None:
        """Makes the error for a call that means something which its session has lost; None if it means nothing such."""
        ended = self._known.get(session_id)
        if ended is None or not caller.may_see(ended.owner):
            return None
        if program_id in ended.programs:
            return SessionEnded(session_id, ended.ended_at, f"the program {program_id!r}")
        return SessionEnded(session_id, ended.ended_at, "the language model") if needs_lm and ended.had_lm else None
