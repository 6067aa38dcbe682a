"""The steps of a ramp that is simulated."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the ramp: the canary probability, and the calls until the next step."""

    w: float
    calls: int


def check_ramp(ramp: Sequence[Stage]) -> None:
    """Raises ValueError for a ramp that makes no sense."""
    rising = [stage.w for stage in ramp]
    if not ramp or rising != sorted(rising) or not all(0 < one.w < 1 and one.calls > 0 for one in ramp):
        raise ValueError("a ramp has rising percentages between 0 and 100, each with a positive number of calls")
