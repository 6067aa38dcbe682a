"""The two versions, and the reason for the version of a call."""

from dataclasses import dataclass
from enum import StrEnum


class Version(StrEnum):
    """A pool engine."""

    V1 = "v1"
    V2 = "v2"


class Reason(StrEnum):
    """The reason for a decision: the pin (`POOL_VERSION`), an admin's header, or the split."""

    PINNED = "pinned"
    FORCED = "forced"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Decision:
    """The version that serves a call, and the reason for it."""

    version: Version
    reason: Reason
