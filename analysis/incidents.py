"""Incidents: a crash that fails many calls at once is one event."""

from typing import Final

GAP_S: Final = 0.1
"""Faults closer together than this belong to one incident."""
LONGEST_S: Final = 0.5
"""An incident lasts no longer; otherwise a service that fails all the time would have one incident without end."""


class Incidents:
    """The incident that each category is in. Blind to the version, so that it prefers none."""

    __slots__ = ("_began", "_last")

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def is_new(self, category: str, t: float) -> bool:
        """Tells if a fault at `t` begins an incident, and notes the fault."""
        last = self._last.get(category)
        self._last[category] = t
        # abs: clocks jump, and calls may be told in another order than they ended in.
        if last is not None and abs(t - last) < GAP_S and abs(t - self._began[category]) < LONGEST_S:
            return False
        self._began[category] = t
        return True
