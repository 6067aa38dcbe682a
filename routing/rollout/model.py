"""The rollout flag as data: one revision of the flag, and a change that somebody asks for."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from routing.split import BASIS_POINTS, threshold


class Source(StrEnum):
    """The origin of a change."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    FILE = "file"
    FLAG = "flag"
    API = "api"
    ROLLBACK = "rollback"
    ABORT = "abort"
    """A rollback that ends a ramp as aborted."""
    PLAN = "plan"
    JUDGE = "judge"
    PAUSE = "pause"
    """A guardrail's pause that takes a part of V2's share back."""
    ROTATION = "rotation"


def source_of(name: str) -> Source | str:
    """The source by name, or the name itself if a newer replica has a source that this one does not know."""
    try:
        return Source(name)
    except ValueError:
        return name


RAMPS = frozenset(Source) - {Source.ROLLBACK, Source.ABORT, Source.PLAN, Source.JUDGE}
"""Sources that set a percentage, be it 0 %, and void nothing."""


def voids_earlier_changes(canary_basis_points: int, source: str) -> bool:
    """Tells a rollback from a ramp.

    A source that this replica does not know counts as a rollback if it sets 0 %: a newer replica may have other ways to
    roll back, and a rollback must not be missed.
    """
    return canary_basis_points == 0 and source not in RAMPS


def storable(text: str) -> str:
    """Replaces the characters that no database takes: NUL, and halves of surrogate pairs.

    A rollback that is in force must be written in any case: it would hold up all later changes.
    """
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True, slots=True)
class Change:
    """A request for a percentage (in hundredths of a percent): by whom, from which source, and why."""

    canary_basis_points: int
    source: Source
    by: str
    reason: str | None = None
    shadow_basis_points: int | None = None
    """None leaves the shadow as it is; a rollback sets it to 0 in any case."""
    v1_pool: str | None = None
    """A rotation's specifications, as JSON: the one that V1 has from now on, and its former one by the environment."""

    def __post_init__(self) -> None:
        for points in (self.canary_basis_points, self.shadow_basis_points or 0):
            if not 0 <= points <= BASIS_POINTS:
                raise ValueError(f"{points} is not from 0 to {BASIS_POINTS}")
        for text in (self.by, self.reason or ""):
            text.encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
            if "\0" in text:
                raise ValueError("the author or the reason contains a NUL character")


@dataclass(frozen=True, slots=True)
class Rollout:
    """A revision of the flag. Revisions count up from 1 without a gap; each is kept for ever."""

    revision: int
    canary_basis_points: int
    previous_basis_points: int | None
    source: Source | str
    """A plain string is the source of a newer replica, which this one does not know."""
    updated_by: str
    reason: str | None
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    rollback_revision: int = field(default=0, compare=False)
    """The newest rollback up to this revision; 0 if there is none. Revisions read from the history leave it at 0."""
    shadow_basis_points: int = 0
    """The share of V1's calls that also run on V2 as shadow calls."""
    v1_pool: str | None = field(default=None, compare=False)
    """A rotation's specifications: see `Change.v1_pool`."""
    rotation_revision: int = field(default=0, compare=False)
    """The newest rotation up to this revision, as `rollback_revision` is for rollbacks."""

    @property
    def canary_percent(self) -> float:
        """The share of V2, from 0 to 100."""
        return self.canary_basis_points / 100

    @property
    def shadow_percent(self) -> float:
        """The share of shadow calls, from 0 to 100."""
        return self.shadow_basis_points / 100

    @property
    def threshold(self) -> int:
        """The first bucket of the split that belongs to V1."""
        return threshold(self.canary_basis_points)


def next_shadow(change: Change, latest: Rollout | None) -> int:
    """The share of shadow calls, in hundredths of a percent, once `change` follows `latest`: a rollback ends them."""
    if voids_earlier_changes(change.canary_basis_points, change.source):
        return 0
    if change.shadow_basis_points is not None:
        return change.shadow_basis_points
    return latest.shadow_basis_points if latest is not None else 0


def to_basis_points(percent: Decimal | float) -> int:
    """Converts a percentage to hundredths of a percent.

    Raises:
        ValueError: not a multiple of 0.01, or not from 0 to 100.
    """
    exact = Decimal(str(percent)) * 100
    if exact != exact.to_integral_value():
        raise ValueError(f"{percent} is not a multiple of 0.01")
    if not 0 <= exact <= BASIS_POINTS:
        raise ValueError(f"{percent} is not from 0 to 100")
    return int(exact)
