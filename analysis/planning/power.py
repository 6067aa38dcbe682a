"""Power: the calls until a regression is found, by simulation of ramps with a fixed seed."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.guardrails import Config, codes_of
from analysis.judge import Judge
from analysis.planning.stages import Stage, check_ramp
from analysis.verdict import Say

DEFAULT_RAMP = "1:2000,5:5000,10:10000,25:20000,50:40000"
RAMPS = 100
_SEED = 17


@dataclass(frozen=True, slots=True)
class Power:
    """The result of the simulation."""

    rate: float
    ramps: int
    found: int
    median_calls: float | None
    """None if most ramps end without a verdict."""

    @property
    def share(self) -> float:
        """Share of ramps in which the regression is found."""
        return self.found / self.ramps

    def as_data(self) -> dict[str, Any]:
        """The result as plain data for JSON."""
        seconds = None if self.median_calls is None else self.median_calls / self.rate
        return {"calls": self.median_calls, "seconds": seconds, "found": self.found, "ramps": self.ramps}


def power(rate: float, faults: float, ratio: float, ramp: Sequence[Stage], guardrail: str) -> Power:
    """Simulates ramps in which V2 has `ratio` times V1's share of faults.

    Raises:
        ValueError: the ramp or the rates make no sense, or the guardrail does not judge faults.

    """
    code = codes_of(guardrail)[0]
    check_ramp(ramp)
    if faults * ratio > 1:
        raise ValueError("V2 cannot have more faults than calls")
    calls = [_until_found(rate, faults, ratio, ramp, code, seed) for seed in range(RAMPS)]
    found = sorted(one for one in calls if one is not None)
    median = found[RAMPS // 2] if len(found) > RAMPS // 2 else None
    return Power(rate, RAMPS, len(found), median)


def _until_found(rate: float, faults: float, ratio: float, ramp: Sequence[Stage], code: str, seed: int) -> int | None:
    """Plays one ramp from fault to fault; returns the calls until the judge acts."""
    rng = random.Random(f"{_SEED} {seed}")  # noqa: S311 - a simulation
    judge = Judge(Config(steps=tuple(stage.w for stage in ramp)))
    begin = 0
    for stage in ramp:
        judge.assigned(begin / rate, stage.w, "v1", None)
        share = faults * (1 - stage.w + stage.w * ratio)
        on_v2 = stage.w * ratio / (1 - stage.w + stage.w * ratio)
        call = begin + _gap(rng, share)
        while call <= begin + stage.calls:
            arm = "v2" if rng.random() < on_v2 else "v1"
            is_due = judge.attempt_failed(call / rate, stage.w, arm, None, "", code) is not None
            if is_due and judge.look(call / rate).action in (Say.ROLLBACK, Say.PAUSE):
                return call
            call += _gap(rng, share)
        begin += stage.calls
    return None


def _gap(rng: random.Random, share: float) -> int:
    """Calls until the next fault: a geometric number."""
    if share <= 0:
        return 1 << 60
    return 1 + int(math.log(1 - rng.random()) / math.log1p(-min(share, 1 - 1e-12)))
