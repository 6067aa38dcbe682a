"""The two versions, and why a call is on one of them."""

from dataclasses import dataclass
from enum import StrEnum


class Version(StrEnum):
    """A pool engine."""

    V1 = "v1"
    V2 = "v2"


class Reason(StrEnum):
    """What decided: the pin (`POOL_VERSION`), an admin's header, or the split."""

    PINNED = "pinned"
    FORCED = "forced"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Decision:
    """Which version serves a call, and why."""

    version: Version
    reason: Reason
