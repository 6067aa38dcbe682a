"""The times of a ramp's step, and since when the pools serve: what a plan waits for, by the event loop's clock."""

import asyncio
from collections.abc import Callable
from typing import Final

from routing.rollout.ramp import Ramp, RampState

DOWN_S: Final = 5.0
"""A pool without a live worker for so long, in seconds, is nothing to compare the other with."""


class RampClock:
    """Measures the hold and the wait of the step that a ramp is at. All times are in seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._step_began = self._loop.time()
        self._waiting_since: float | None = None

    def __repr__(self) -> str:
        return f"<RampClock held_s={self.held_s():.1f} waited_s={self.waited_s():.1f}>"

    def moved(self, before: Ramp, ramp: Ramp) -> None:
        """Begins the times again that the move from `before` to `ramp` ends."""
        now = self._loop.time()
        is_another = (ramp.step, ramp.run) != (before.step, before.run)
        if is_another or (ramp.state is RampState.RAMPING and not before.state.is_active):
            self._step_began = now
        waits = ramp.state is RampState.WAITING
        self._waiting_since = (self._waiting_since or now) if waits and not is_another else now if waits else None

    def held_s(self) -> float:
        """Time since the step began, or was resumed."""
        return self._loop.time() - self._step_began

    def waited_s(self) -> float:
        """Time since the ramp has been waiting, 0 if it is not."""
        return 0.0 if self._waiting_since is None else self._loop.time() - self._waiting_since


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
