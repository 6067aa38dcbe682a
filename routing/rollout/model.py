"""The rollout flag as data: one revision of it, and what a change asks for."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from routing.split import BASIS_POINTS, threshold


class Source(StrEnum):
    """Where a change came from."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    FILE = "file"
    FLAG = "flag"
    API = "api"
    ROLLBACK = "rollback"
    PLAN = "plan"
    JUDGE = "judge"


@dataclass(frozen=True, slots=True)
class Change:
    """A wish for a new percentage: how much (in hundredths of a percent), by whom, from where, why."""

    canary_basis_points: int
    source: Source
    by: str
    reason: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.canary_basis_points <= BASIS_POINTS:
            raise ValueError(f"{self.canary_basis_points} is not from 0 to {BASIS_POINTS}")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One revision of the flag. Revisions count up from 1 without a gap; each is kept for ever."""

    revision: int
    canary_basis_points: int
    previous_basis_points: int | None
    source: Source
    updated_by: str
    reason: str | None
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def canary_percent(self) -> float:
        """The share of V2, from 0 to 100."""
        return self.canary_basis_points / 100

    @property
    def threshold(self) -> int:
        """The first bucket of the split that is not V2's."""
        return threshold(self.canary_basis_points)


def to_basis_points(percent: Decimal | float) -> int:
    """Hundredths of a percent.

    Raises:
        ValueError: not a multiple of 0.01, or not from 0 to 100.
    """
    exact = Decimal(str(percent)) * 100
    if exact != exact.to_integral_value():
        raise ValueError(f"{percent} is not a multiple of 0.01")
    if not 0 <= exact <= BASIS_POINTS:
        raise ValueError(f"{percent} is not from 0 to 100")
    return int(exact)
