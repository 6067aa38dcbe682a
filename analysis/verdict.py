"""Values that the judge returns, frozen, for controllers, pages and notifications."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Finding = Literal["against", "suspected", "alike", "unknown"]
"""A guardrail's word on V2: worse, perhaps worse, not worse by the margin, or not yet known."""


class Say(StrEnum):
    """The judge's words, from the mildest to the gravest."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    PAUSE = "pause"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A guardrail's evidence: an alarm if `log_e` reaches `threshold`."""

    guardrail: str
    log_e: float
    threshold: float
    stratum: str = "all"
    """The stratum that has most of the evidence, such as `program=summarize`."""
    since_step: float | None = None
    """The canary probability at which the deciding start copy began."""

    @property
    def is_alarm(self) -> bool:
        """Tells if the evidence is enough for the guardrail's action."""
        return self.log_e >= self.threshold


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge's word, and the evidence for it."""

    action: Say
    guardrail: str | None
    log_e: float
    threshold: float
    stratum: str
    since: float
    """The time at which the verdict became this one."""
    not_shown: tuple[str, ...] = ()
    """Programs with too few calls for evidence that V2 is not slower in them, if the verdict is a promotion."""


@dataclass(frozen=True, slots=True)
class Tally:
    """One version's calls and faults."""

    calls: int
    faults: int


@dataclass(frozen=True, slots=True)
class Detectable:
    """The calls until a regression by `ratio` would be found; None is "never in this ramp"."""

    ratio: float
    calls: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Until:
    """Further organic calls, and the time that they take at the present rate."""

    calls: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One guardrail for the page of analysis."""

    name: str
    action: str
    log_e: float
    threshold: float
    v1: Tally
    v2: Tally
    ratio: tuple[float, float | None]
    """Always-valid interval of V2's rate (or time) over V1's; None is no upper bound."""
    stratum: str
    detectable: Detectable
    is_shown: bool = False
    """Tells if it is shown that V2 is not worse by the margin."""
    until_shown: Until | None = None
    """The calls until that is likely, if V2 is as good as V1; None if it is shown, or not to be foreseen."""
    not_shown: tuple[str, ...] = ()
    """The programs with calls at this step of which this is not shown, for `latency` and `tail`."""
    suspects: tuple[str, ...] = ()
    """Parts of the evidence that speak against V2 so far, and that may be chance, such as `invoice.total`."""

    @property
    def finding(self) -> Finding:
        """The guardrail's word. Evidence above half of its threshold is a suspicion."""
        if self.log_e >= self.threshold:
            return "against"
        if self.suspects or self.log_e >= self.threshold / 2:
            return "suspected"
        return "alike" if self.is_shown else "unknown"


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A guardrail that a promotion waits for, and when its evidence is likely if V2 is as good as V1."""

    guardrail: str
    until: Until | None
    """None if that is not known, or if no number of calls would do."""


def outstanding(rows: Iterable[Row], promoting: Collection[str]) -> list[Outstanding]:
    """Returns those of the guardrails in `promoting` whose rows do not show yet that V2 is no worse."""
    return [Outstanding(row.name, row.until_shown) for row in rows if row.name in promoting and not row.is_shown]
