"""The times of a ramp's step, and since when the pools serve: what a plan waits for, by the event loop's clock."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from routing.rollout.ramp import Ramp, RampState

DOWN_S: Final = 5.0
"""A pool without a live worker for so long, in seconds, is nothing to compare the other with."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The times of the step that a ramp is at, as the store keeps them with a revision of the ramp."""

    held_s: float = 0.0
    """Seconds since the step began, or was resumed."""
    waited_s: float = 0.0
    """Seconds since the ramp has been waiting, 0 if it is not."""
    since: datetime | None = None
    """The time at which the ramp came into its state; None if that is the revision's."""


class RampClock:
    """Measures the hold and the wait of the step that a ramp is at. All times are in seconds.

    Both stand still while a pin holds the ramp.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._held_s = 0.0
        self._waited_s = 0.0
        self._at = self._loop.time()
        """The time at which those two were right."""
        self._is_waiting = False
        self._is_held = False

    def __repr__(self) -> str:
        return f"<RampClock held_s={self.held_s():.1f} waited_s={self.waited_s():.1f}>"

    def held_s(self) -> float:
        """Time since the step began, or was resumed."""
        return self._held_s + self._passed_s()

    def waited_s(self) -> float:
        """Time since the ramp has been waiting, 0 if it is not."""
        return self._waited_s + self._passed_s() if self._is_waiting else 0.0

    def after(self, before: Ramp, ramp: Ramp) -> tuple[float, float]:
        """The hold and the wait as they are once the ramp has moved from `before` to `ramp`."""
        is_another = (ramp.step, ramp.run) != (before.step, before.run)
        begins = is_another or (ramp.state is RampState.RAMPING and not before.state.is_active)
        goes_on_waiting = ramp.state is RampState.WAITING and not is_another
        return 0.0 if begins else self.held_s(), self.waited_s() if goes_on_waiting else 0.0

    def moved(self, before: Ramp, ramp: Ramp) -> None:
        """Begins the times again that the move from `before` to `ramp` ends."""
        self.set(ramp, *self.after(before, ramp))

    def set(self, ramp: Ramp, held_s: float, waited_s: float) -> None:
        """Goes on from these times of `ramp`."""
        self._held_s, self._waited_s, self._at = held_s, waited_s, self._loop.time()
        self._is_waiting = ramp.state is RampState.WAITING
        self._is_held = ramp.pinned is not None

    def _passed_s(self) -> float:
        return 0.0 if self._is_held else self._loop.time() - self._at


class ServingSince:
    """Tells if a pool serves, or has only just stopped to: a restart of all workers at once is no outage."""

    def __init__(self, serves: Callable[[], bool]) -> None:
        self._serves = serves
        self._loop = asyncio.get_running_loop()
        self._served_at = self._loop.time()

    def is_up(self) -> bool:
        """Tells if the pool has had a live worker within the last `DOWN_S` seconds."""
        now = self._loop.time()
        if self._serves():
            self._served_at = now
        return now - self._served_at < DOWN_S
