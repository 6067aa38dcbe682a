"""Sessions that ended lately and held programs or an LM of their own.

Without them a call of such a session would silently get the global program's answer, by everyone's LM and its key.
"""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from routing.catalog.owners import Caller
from routing.errors import SessionEnded

REMEMBERED: Final = timedelta(days=7)
MAX_REMEMBERED: Final = 100_000
"""Sessions that are remembered, in 30 MB of memory. The ones that ended first are forgotten before others."""


class EndedSession(NamedTuple):
    """A session that has ended."""

    id: str
    ended_at: datetime
    owner: str | None
    had_own: bool
    """True if the session held programs or an LM of its own: then it is remembered."""
    ended_s: float = 0.0
    """Seconds since its end, when it was read."""


class EndedSessions:
    """The ended sessions that are remembered, in memory; the store has them too."""

    def __init__(self) -> None:
        self._known: dict[str, EndedSession] = {}
        """In the order of their ends."""
        self._ends: dict[str, float] = {}
        """The time of each end, by the monotonic clock."""

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._known

    def load(self, ended: Iterable[EndedSession]) -> None:
        """Takes the place of what is known by what the store has, in the order of their ends."""
        self._known.clear()
        self._ends.clear()
        for one in ended:
            self.remember(one)

    def remember(self, ended: EndedSession) -> None:
        """Remembers a session that has just ended, if it held anything of its own."""
        if not ended.had_own:
            return
        self._known.pop(ended.id, None)
        self._known[ended.id] = ended
        self._ends[ended.id] = time.monotonic() - ended.ended_s
        if len(self._known) > MAX_REMEMBERED:
            self.forget(next(iter(self._known)))

    def forget(self, session_id: str) -> None:
        """Forgets a session that has begun again."""
        self._known.pop(session_id, None)
        self._ends.pop(session_id, None)

    def sweep(self) -> None:
        """Forgets the sessions that ended too long ago."""
        oldest = time.monotonic() - REMEMBERED.total_seconds()
        while self._known and self._ends[first := next(iter(self._known))] < oldest:
            self.forget(first)

    def has(self, session_id: str, caller: Caller) -> bool:
        """Tells if `caller` had the session that is remembered: to others its id is a new one."""
        ended = self._known.get(session_id)
        return ended is not None and caller.may_see(ended.owner)

    def error(self, session_id: str) -> SessionEnded:
        """Makes the error for a call of a session that is remembered."""
        return SessionEnded(session_id, self._known[session_id].ended_at)
