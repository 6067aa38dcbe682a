"""Watches V2 after its promotion: the calls that it has now, against those of the ramp's last step."""

import time
from dataclasses import dataclass
from typing import Final

from analysis.relapse import ALL, Relapse, RelapseDetector, Seen
from routing.rollout.live_judge import LiveJudge
from routing.rollout.plan import AfterPlan
from routing.rollout.ramp import Ramp, RampState
from routing.rollout.v2_watch import V2Watch

ALPHA: Final = 0.01
"""The probability of a false alarm within `watch_s`, on all replicas together."""
LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """The news that V2 has become worse, in words, and what is to be done."""

    reason: str
    rolls_back: bool


class AfterPromotion:
    """The detector of one promotion on this replica. A restart begins it again: that costs time, and no guarantee."""

    def __init__(self, judge: LiveJudge) -> None:
        self._judge = judge
        self.watch: V2Watch | None = None
        """Counts V2's calls; None while there is nothing to count them."""
        self._run: int | None = None
        self._detector = RelapseDetector({}, 1.0, ALPHA)
        self._before: dict[str, Seen] = {}
        self._looked_at = 0.0

    def look(self, ramp: Ramp, promoted_s: float, replicas: int) -> Alarm | None:
        """Looks at the calls since the last look; `promoted_s` is the time since the promotion, in seconds."""
        watch, now = self.watch, time.monotonic()
        if watch is None or not watch.is_on or ramp.state is not RampState.PROMOTED or ramp.is_alarmed:
            self._run = None
            return None
        if now - self._looked_at < LOOK_S:
            return None
        self._looked_at = now
        after = AfterPlan() if ramp.plan is None else ramp.plan.after
        if self._run != ramp.run:
            self._run, self._before = ramp.run, {}
            self._detector = RelapseDetector(self._judge.v2_baseline(), after.watch_s / LOOK_S * replicas, ALPHA)
        found = self._detector.look(self._since_last_look(watch))
        if found is None:
            return None
        rolls_back = after.action == "rollback" and promoted_s <= after.watch_s and not watch.is_forced
        return Alarm(self._reason(watch, found), rolls_back)

    def _since_last_look(self, watch: V2Watch) -> dict[str, Seen]:
        before, self._before = self._before, dict(watch.units)
        return {name: _since(seen, before.get(name)) for name, seen in self._before.items()}

    def _reason(self, watch: V2Watch, found: Relapse) -> str:
        """Names the program that most of the evidence is of, the code that most of its faults have, and both rates."""
        program, code = watch.most_faulty(None if found.program == ALL else found.program)
        return (
            f"V2 has become worse since its promotion: {watch.recent()} are faults, at the last step "
            f"{self._judge.v2_at_last_step()}; most are {code} of the program {program} "
            f"(log e-detector {found.log_m:.2f} reached {found.threshold:.2f})"
        )


def _since(seen: Seen, before: Seen | None) -> Seen:
    return seen if before is None else Seen(seen.calls - before.calls, seen.faults - before.faults)
