"""A guardrail's pause of the ramp, as the migration shows it: the evidence, and where to look first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from analysis.guardrails import QUALITY
from routing.rollout.ramp import Ramp

MAX_NAMED: Final = 3
"""Executions that an objection names."""
_LOOKS: Final = {"shadow": "poolshift shadow report", QUALITY: "poolshift shadow report"}
_LOOK: Final = "poolshift rollout analysis"


@dataclass(frozen=True, slots=True)
class Pause:
    """The guardrail that has paused a ramp, its evidence in words, and executions that are part of it."""

    guardrail: str
    evidence: str
    executions: tuple[str, ...]

    @property
    def look(self) -> str:
        """The command that shows the evidence."""
        return _LOOKS.get(self.guardrail, _LOOK)

    def objections(self) -> list[str]:
        """Says what speaks against going on."""
        told = [f"the plan is paused by a guardrail. {self.evidence}"]
        if self.executions:
            told.append(f"executions to look at: {', '.join(self.executions[:MAX_NAMED])}")
        told.append(
            "look, and mend V2 or take it back (poolshift rollout abort); "
            f"to resume would overrule {self.guardrail} for the rest of the ramp"
        )
        return told


def pause_of(ramp: Ramp, executions: Sequence[str]) -> Pause | None:
    """The pause of a ramp by a guardrail, if it is paused by one."""
    guardrail = ramp.paused_by
    return None if guardrail is None else Pause(guardrail, ramp.reason or "", tuple(executions))
