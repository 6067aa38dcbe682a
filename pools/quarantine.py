"""A circuit breaker per program: one that keeps killing workers is stopped for a while, while all others run on.

    closed ──3 deaths in a row──► open ──time is up──► half-open ──one call ends well──► closed
                                    ▲                      │
                                    └──another death───────┘   (and stays open twice as long)

The states and their names are those of M. Nygard, "Release It!", chapter "Circuit Breaker".
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pools.errors import ProgramQuarantined
from pools.protocol import Quarantined

DEATHS_IN_A_ROW = 3
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0
MAX_SUSPECTS = 10_000


@dataclass(slots=True)
class _Suspect:
    deaths: int = 0
    pause_s: float = 0.0
    open_until: float = 0.0
    trial: str | None = None
    """The execution that is let through to see whether the program has mended."""
    is_late: bool = False
    """A worker died of what a call had left that had itself ended well: such an end says nothing, but a trial's."""


class Quarantine:
    """Counts the deaths per program; knows only programs that have killed a worker since they last ended well."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: dict[str, _Suspect] = {}

    def admit(self, key: str, execution_id: str) -> None:
        """Lets a call of program `key` pass.

        Raises:
            ProgramQuarantined: the breaker is open, or half-open and another call is the trial.
        """
        if not self._suspects:
            return
        suspect = self._suspects.get(key)
        if suspect is None or suspect.deaths < DEATHS_IN_A_ROW:
            return
        left_s = suspect.open_until - self._clock()
        if left_s > 0 or suspect.trial is not None:
            raise ProgramQuarantined(
                f"the program has killed {suspect.deaths} workers in a row and is stopped for a while",
                retry_after_s=max(left_s, 1.0),
            )
        suspect.trial = execution_id

    def quarantined(self) -> tuple[Quarantined, ...]:
        """The programs whose breaker is open or half-open."""
        now = self._clock()
        return tuple(
            Quarantined(key, suspect.deaths, max(0.0, suspect.open_until - now))
            for key, suspect in self._suspects.items()
            if suspect.deaths >= DEATHS_IN_A_ROW
        )

    def survived(self, key: str) -> None:
        """A call ended without harm to its worker: the breaker closes."""
        suspect = self._suspects.get(key) if self._suspects else None
        if suspect is not None and not (suspect.is_late and suspect.trial is None):
            del self._suspects[key]

    def killed(self, key: str, *, is_late: bool = False) -> None:
        """A call killed its worker, or, if that `is_late`, left in it what killed it under another program's call."""
        if key not in self._suspects and len(self._suspects) >= MAX_SUSPECTS:
            self._suspects.pop(next(iter(self._suspects)))
        suspect = self._suspects.setdefault(key, _Suspect())
        suspect.deaths += 1
        suspect.is_late = suspect.is_late or is_late
        suspect.trial = None
        if suspect.deaths >= DEATHS_IN_A_ROW:
            suspect.pause_s = min(max(FIRST_PAUSE_S, 2 * suspect.pause_s), LONGEST_PAUSE_S)
            suspect.open_until = self._clock() + suspect.pause_s

    def undecided(self, key: str, execution_id: str) -> None:
        """A call ended in a way that says nothing of the program: if it was the trial, another may be."""
        suspect = self._suspects.get(key) if self._suspects else None
        if suspect is not None and suspect.trial == execution_id:
            suspect.trial = None
