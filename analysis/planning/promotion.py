"""Time to promotion: the calls until a V2 that is as good as V1 is promoted, by simulation with a fixed seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis.guardrails import GUARDRAILS, Config, codes_of
from analysis.judge import Judge
from analysis.planning.stages import Stage, check_ramp

RAMPS: Final = 21
PROMOTING: Final = tuple(one.name for one in GUARDRAILS if one.promotes)
"""The guardrails whose evidence a promotion waits for."""
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
    by_guardrail: Mapping[str, int | None]
    """Median of the calls at the last step until each guardrail's evidence is there; None if it takes more."""
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
            "guardrails": {
                name: {"calls": calls, "seconds": None if calls is None else calls / self.rate}
                for name, calls in self.by_guardrail.items()
            },
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
    played = [_until_shown(rate, faults, last, code, seed) for seed in range(RAMPS)]
    promoted = [max(one.values()) for one in played if len(one) == len(PROMOTING)]
    by_guardrail = {name: _median([one[name] for one in played if name in one]) for name in PROMOTING}
    earlier = sum(stage.calls for stage in ramp[:-1])
    return PromotionTime(rate, earlier, last, _median(promoted), len(promoted), by_guardrail)


def _median(calls: Sequence[int]) -> int | None:
    """The median over all ramps; None if most of them took more calls than are played."""
    return sorted(calls)[RAMPS // 2] if len(calls) > RAMPS // 2 else None


def _until_shown(rate: float, faults: float, w: float, code: str, seed: int) -> dict[str, int]:
    """Plays the calls of one last step; returns those until promotion has the evidence of each guardrail.

    A guardrail whose evidence comes and goes counts from the last time that it has come.
    """
    rng = random.Random(f"{_SEED} {seed}")  # noqa: S311 - a simulation
    judge = Judge(Config(steps=(w,)))
    look, shown = 100, dict[str, int]()
    for call in range(1, MAX_CALLS + 1):
        arm = "v2" if rng.random() < w else "v1"
        outcome = code if rng.random() < faults else "ok"
        judge.assigned(call / rate, w, arm, None)
        judge.ended(call / rate, w, arm, None, "", outcome, rng.lognormvariate(_LOG_MEDIAN_MS, _SIGMA))
        if call >= look:
            lacking = {one.guardrail for one in judge.lacking()}
            shown = {name: shown.get(name, call) for name in PROMOTING if name not in lacking}
            if not lacking:
                return shown
            look = int(look * _GROWTH) + 1
    return shown
