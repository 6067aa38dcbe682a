"""The trial of a V2: the calls that it has served, the end of its last ramp, and if that is enough for a rotation.

A V2 has an identity: a digest of its pool, its LM and its own definitions. Another identity is another V2, whose trial
has not begun.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from analysis.verdict import Say, Verdict
from routing.rollout.ramp import JUDGE, PLAN

MAX_FAULT_SHARE: Final = 0.01
"""The largest share of V2's calls that may have ended with a fault of its own, if no plan has ended promoted."""


class Outcome(StrEnum):
    """The end of a V2's last ramp, or of the rotation to it."""

    RAMPING = "ramping"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    UNROTATED = "unrotated"


_AGAINST: Final = {
    Outcome.ROLLED_BACK: "was rolled back",
    Outcome.ABORTED: "was aborted",
    Outcome.UNROTATED: "was V1 after a rotation, which was taken back",
}


@dataclass(frozen=True, slots=True)
class End:
    """An outcome: by whom, when and why. `run` is the number of the ramp's start, if there was a ramp."""

    outcome: Outcome
    by: str
    reason: str | None
    at: datetime
    run: int | None = None

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"by {self.by} at {self.at.isoformat(timespec='seconds')}{why}"


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """All that is known of one V2."""

    served: int = 0
    """Calls of clients that it answered without a fault of its own, on all replicas."""
    faults: int = 0
    """Calls that ended with a fault of its own, or that had to run again for one."""
    end: End | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """The answer to the question if V2 has been tried; `told` has the evidence in words, or what speaks against it."""

    is_proven: bool
    told: str


class Trials(Protocol):
    """Knows the trial of V2 as it runs now."""

    async def of_v2(self) -> Trial:
        """Judges V2's trial on all replicas' calls. Raises StoreUnavailable."""
        ...

    async def identity(self) -> str | None:
        """Returns the identity of V2 as it runs now; None if its interpreter cannot run workers."""
        ...


class TrialStore(Protocol):
    """Keeps trials by identity. Every method raises StoreUnavailable if the store does not answer."""

    async def find(self, identity: str) -> TrialRecord | None:
        """Reads one trial."""
        ...

    async def add(self, identity: str, served: int, faults: int) -> None:
        """Adds calls to a trial, which begins with its first."""
        ...

    async def begin_run(self, identity: str, begun: End) -> None:
        """Puts `begun` in place of the trial's former end, unless that is of the same ramp, or of a later one."""
        ...

    async def end(self, identity: str, end: End) -> None:
        """Puts `end` in place of the trial's former one."""
        ...

    async def end_run(self, run: int, end: End) -> None:
        """Puts `end` in place of the former one of the trial that had the ramp `run`; does nothing if none had."""
        ...


def trial_of(record: TrialRecord | None, verdict: Verdict | None, min_calls: int) -> Trial:
    """Judges a trial. `verdict` is the judge's, unless a person has overruled it."""
    record = record or TrialRecord()
    end = record.end
    if end is not None and end.outcome in _AGAINST:
        return Trial(is_proven=False, told=f"this V2 {_AGAINST[end.outcome]} {end}")
    if verdict is not None and verdict.action in (Say.ROLLBACK, Say.PAUSE):
        return Trial(is_proven=False, told=f"the judge says {verdict.action} of this V2, by {verdict.guardrail}")
    if end is not None and end.outcome is Outcome.PROMOTED and end.by in (JUDGE, PLAN):
        return Trial(is_proven=True, told=f"its plan ended promoted {end}")
    return _by_calls(record, min_calls)


def _by_calls(record: TrialRecord, min_calls: int) -> Trial:
    calls = record.served + record.faults
    counted = f"{calls:,} calls with {record.faults:,} faults of its own"
    if record.served < min_calls:
        lacking = f"no plan of this V2 ended promoted by evidence, and it has served {counted}"
        return Trial(is_proven=False, told=f"{lacking}; ROTATE_MIN_CALLS asks for {min_calls:,} without one")
    if record.faults > MAX_FAULT_SHARE * calls:
        return Trial(is_proven=False, told=f"this V2 has served {counted}, more than {100 * MAX_FAULT_SHARE:g} %")
    return Trial(is_proven=True, told=f"it has served {counted}")
