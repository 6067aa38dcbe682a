"""Incidents: a crash that fails many calls at once is one event."""

from typing import Final

INCIDENT_S: Final = 0.1
"""Faults of one category within this time, in seconds, are one incident.

The time counts from the incident's first fault. Otherwise a version that fails all the time would have one incident
without end, and would be found the later the worse it is.
"""


class Incidents:
    """The incident that each category is in. Blind to the version, so that it prefers none."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began: dict[str, float] = {}

    def is_new(self, category: str, t: float) -> bool:
        """Tells if a fault at `t` begins an incident, and notes the fault."""
        began = self._began.get(category)
        # abs: clocks jump, and calls may be told in another order than they ended in.
        if began is not None and abs(t - began) < INCIDENT_S:
            return False
        self._began[category] = t
        return True
