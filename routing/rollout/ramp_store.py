"""The interface to the place where ramps, verdicts and evidence are remembered, by every replica."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from routing.rollout.ramp import Ramp
from routing.rollout.ramp_clock import StepTimes

SILENT_AFTER_S: Final = 5.0
"""A replica that has said nothing for so long, in seconds, has died or is cut off."""


@dataclass(frozen=True, slots=True)
class StoredRamp:
    """A ramp as one revision of its history. Revisions count up from 1; 0 is before the first."""

    revision: int
    ramp: Ramp
    at: datetime
    times: StepTimes | None = None
    """The times of the step at this revision; None if an older release has written it."""


@dataclass(frozen=True, slots=True)
class FoundRamp:
    """The newest revision as a service finds it at its start. All times are by the store's clock."""

    stored: StoredRamp
    ran_s: float
    """Seconds from that revision to the last sign of life of a service."""
    idle_s: float
    """Seconds since that sign."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its evidence, kept for ever."""

    verdict: str
    guardrail: str | None
    evidence: Mapping[str, Any]
    """The guardrails' rows, the step, and the executions that decided."""
    at: datetime
    key: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """A replica's word about itself."""

    id: str
    seen_at: datetime
    """The time of it by the store's clock; by the replica's own in a report that the store does not have yet."""
    rollout_revision: int
    calls: tuple[int, int]
    """Organic assignments to V1 and V2 at the percentage in force there."""
    heard_at: float = field(default_factory=time.monotonic)
    """The time of it by the monotonic clock of the replica that reads this."""

    @property
    def is_silent(self) -> bool:
        """True if the replica has said nothing since for some seconds."""
        return time.monotonic() - self.heard_at > SILENT_AFTER_S


Snapshot = Mapping[str, Any]
"""One replica's evidence as plain data."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """The news that a replica gets from the others."""

    is_leader: bool
    """Tells if this replica has the lease, and decides for all."""
    replicas: Sequence[ReplicaReport]
    """All replicas that have said something within the last minute."""
    ramp: StoredRamp | None
    evidence: Mapping[str, Snapshot]
    """By replica, those that have died included."""


class StaleRamp(Exception):
    """Another replica has moved the ramp."""

    def __init__(self, current: StoredRamp) -> None:
        super().__init__(f"the ramp is at revision {current.revision}")
        self.current = current


class RampStore(Protocol):
    """Keeps ramps. Every method raises StoreUnavailable if the store does not answer."""

    async def find(self) -> FoundRamp | None:
        """The newest revision, None if there is none yet."""
        ...

    async def append(self, ramp: Ramp, times: StepTimes, *, after: int) -> StoredRamp:
        """Makes `ramp` the revision after `after`, with the times of its step, and queues its notification.

        Raises:
            StaleRamp: `after` is not the newest.
        """
        ...

    async def decide(self, decision: Decision) -> None:
        """Keeps a verdict."""
        ...

    async def decisions(self, *, limit: int, before: int | None = None) -> Sequence[Decision]:
        """Verdicts, the newest first, with keys under `before`."""
        ...

    async def keep(self, report: ReplicaReport, generation: str, snapshot: Snapshot | None) -> None:
        """Keeps a sign of life of one replica, and its evidence, if it has any, in place of what it said before."""
        ...

    async def evidence(self, generation: str) -> Mapping[str, Snapshot]:
        """Every replica's evidence of a generation, by replica, those that have died included."""
        ...

    async def exchange(self, report: ReplicaReport, generation: str, snapshot: Snapshot | None) -> Exchange:
        """Tells the other replicas what this one knows, and returns what they do; in one transaction."""
        ...
