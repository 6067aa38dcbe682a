"""Time to promotion: the calls until a V2 that is as good as V1 is promoted, by simulation with a fixed seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis.guardrails import Config, codes_of
from analysis.judge import Judge
from analysis.planning.stages import Stage, check_ramp

RAMPS: Final = 21
MAX_CALLS: Final = 200_000
"""Calls at the last step after which a ramp counts as not promoted."""
_LOG_MEDIAN_MS: Final = 3.0
_SIGMA: Final = 1.0
"""Spread of the calls' times: a third of them takes over 2.7 times the median, or under a 2.7th of it."""
_GROWTH: Final = 1.02
_SEED: Final = 23


@dataclass(frozen=True, slots=True)
class PromotionTime:
    """The result of the simulation."""

    rate: float
    earlier_calls: int
    """Calls at the steps before the last one."""
    last_step: float
    last_step_calls: int | None
    """Median of the calls that the last step takes; None if most ramps take over `MAX_CALLS`."""
    promoted: int
    ramps: int = RAMPS

    @property
    def calls(self) -> int | None:
        """The calls of the whole ramp."""
        return None if self.last_step_calls is None else self.earlier_calls + self.last_step_calls

    def as_data(self) -> dict[str, Any]:
        """The result as plain data for JSON."""
        return {
            "calls": self.calls,
            "seconds": None if self.calls is None else self.calls / self.rate,
            "last_step_calls": self.last_step_calls,
            "promoted": self.promoted,
            "ramps": self.ramps,
        }


def promotion_time(rate: float, faults: float, ramp: Sequence[Stage], guardrail: str) -> PromotionTime:
    """Simulates the last step of ramps in which both versions have the same share of faults and the same times.

    Raises:
        ValueError: the ramp makes no sense, or the guardrail does not judge faults.

    """
    code = codes_of(guardrail)[0]
    check_ramp(ramp)
    last = ramp[-1].w
    calls = [_until_promoted(rate, faults, last, code, seed) for seed in range(RAMPS)]
    promoted = sorted(one for one in calls if one is not None)
    median = promoted[RAMPS // 2] if len(promoted) > RAMPS // 2 else None
    return PromotionTime(rate, sum(stage.calls for stage in ramp[:-1]), last, median, len(promoted))


def _until_promoted(rate: float, faults: float, w: float, code: str, seed: int) -> int | None:
    """Plays the calls of one last step; returns the calls until promotion has all of its evidence."""
    rng = random.Random(f"{_SEED} {seed}")  # noqa: S311 - a simulation
    judge = Judge(Config(steps=(w,)))
    look = 100
    for call in range(1, MAX_CALLS + 1):
        arm = "v2" if rng.random() < w else "v1"
        outcome = code if rng.random() < faults else "ok"
        judge.assigned(call / rate, w, arm, None)
        judge.ended(call / rate, w, arm, None, "", outcome, rng.lognormvariate(_LOG_MEDIAN_MS, _SIGMA))
        if call >= look:
            if not judge.lacking():
                return call
            look = int(look * _GROWTH) + 1
    return None
