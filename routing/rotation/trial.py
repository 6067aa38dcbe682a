"""The trial of a V2: the calls that it has served, the end of its last ramp, and if that is enough for a rotation.

A V2 has an identity: a digest of its pool, its LM and its own definitions. Another identity is another V2, whose trial
has not begun.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from analysis.verdict import Say, Verdict
from common.names import first_of

MAX_FAULT_SHARE: Final = 0.01
"""The largest share of V2's calls that may have ended with a fault of its own, if no plan has proved it."""
MAX_NAMED: Final = 5
"""Programs that a refusal names."""


class Outcome(StrEnum):
    """The state of a V2's last ramp, or the end of the rotation to it."""

    RAMPING = "ramping"
    PROMOTED = "promoted"
    """By a person, or by a plan that goes on without evidence."""
    PROVEN = "proven"
    """Promoted by evidence: the judge found V2 not worse, and no step of the plan was left without evidence."""
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    UNROTATED = "unrotated"


AGAINST: Final = {
    Outcome.ROLLED_BACK: "was rolled back",
    Outcome.ABORTED: "was aborted",
    Outcome.UNROTATED: "was V1 after a rotation, which was taken back",
}
"""The outcomes that speak against a V2, in words."""


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


class Calls(NamedTuple):
    """Calls of clients on V2, but for those that an admin's header has sent there."""

    served: int = 0
    """Calls that it answered without a fault of its own."""
    faults: int = 0
    """Calls that ended with a fault of its own, or that had to run again for one."""


NO_CALLS: Final = Calls()


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """All that is known of one V2, on all replicas. An end against it begins its counts again."""

    calls: Calls = NO_CALLS
    """Calls since the last end against this V2."""
    tried: frozenset[str] = frozenset()
    """The keys of the programs whose own definition has served a call since then."""
    end: End | None = None
    """The state of the last ramp, or the last end."""
    against: End | None = None
    """The last end against this V2, unless a plan has promoted it by evidence since."""
    ends: int = 0
    """The number of ends against it."""


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

    async def flush(self) -> None:
        """Writes the calls that V2 has served on this replica. Raises StoreUnavailable."""
        ...

    async def identity(self) -> str | None:
        """Returns the identity of V2 as it runs now; None if its interpreter cannot run workers."""
        ...


class TrialStore(Protocol):
    """Keeps trials by identity. Every method raises StoreUnavailable if the store does not answer."""

    async def find(self, identity: str) -> TrialRecord | None:
        """Reads one trial."""
        ...

    async def add(self, identity: str, calls: Calls, tried: Collection[str], *, ends: int) -> int:
        """Adds calls to a trial, which begins with its first, and the programs whose own definition they have tried.

        `ends` is the number of ends against this V2 when the calls were counted. Nothing is added if there is another
        one by now, since the counts have begun again meanwhile. Returns the number.
        """
        ...

    async def begin_run(self, identity: str, begun: End) -> None:
        """Puts `begun` in place of the trial's former end, unless that is of the same ramp, or of a later one.

        A former end against this V2 stays in force.
        """
        ...

    async def end(self, identity: str, end: End) -> None:
        """Writes an end against a V2 that is not its ramp's, and begins its counts again.

        An end that was written already, as its time tells, changes nothing.
        """
        ...

    async def end_run(self, run: int, end: End) -> None:
        """Writes the end of the ramp `run` into its trial; does nothing if no trial had it. A ramp ends once.

        An end against V2 begins the counts again, and one by evidence takes back what spoke against V2. A second end
        of a ramp that has ended against V2 changes the words alone.
        """
        ...


def trial_of(record: TrialRecord | None, verdict: Verdict | None, min_calls: int, untried: Sequence[str] = ()) -> Trial:
    """Judges a trial.

    `verdict` is the judge's, unless a person has overruled it. `untried` names the programs whose own definition has
    served no call.
    """
    record = record or TrialRecord()
    by_calls = _by_calls(record, min_calls)
    if record.against is not None and not by_calls.is_proven:
        return by_calls
    if verdict is not None and verdict.action in (Say.ROLLBACK, Say.PAUSE):
        return Trial(is_proven=False, told=f"the judge says {verdict.action} of this V2, by {verdict.guardrail}")
    if untried:
        named = first_of(untried, MAX_NAMED, "more")
        return Trial(is_proven=False, told=f"no call has tried V2's own definition of {named}")
    if record.end is not None and record.end.outcome is Outcome.PROVEN:
        return Trial(is_proven=True, told=f"its plan ended promoted by evidence {record.end}")
    return by_calls


def _by_calls(record: TrialRecord, min_calls: int) -> Trial:
    """Judges a trial by its calls alone."""
    served, faults = record.calls
    counted = f"{served + faults:,} calls with {faults:,} faults of its own"
    against = record.against
    told = f"it has served {counted}"
    if against is not None:
        told = f"this V2 {AGAINST[against.outcome]} {against}; since then {told}"
    elif served < min_calls:
        told = f"no plan of this V2 ended promoted by evidence, and {told}"
    if served < min_calls:
        return Trial(is_proven=False, told=f"{told}; ROTATE_MIN_CALLS asks for {min_calls:,}, unless a plan proves it")
    if faults > MAX_FAULT_SHARE * (served + faults):
        return Trial(is_proven=False, told=f"{told}, more than {100 * MAX_FAULT_SHARE:g} %")
    return Trial(is_proven=True, told=told)
