"""The phase of the migration as the facts have it, the objections to the next one, and the command that comes next.

The phases are those of the migration guide. Nothing here does I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from routing.migration.checklist import VALIDATE, Item, ItemState
from routing.migration.pause import Pause
from routing.rollout.ramp import RampState

QUIET_DAYS = 7
"""Days without a call that needs V1, after which nothing is seen to need it any more."""


class Phase(StrEnum):
    """The phases, in their order."""

    PARALLEL = "parallel"
    VALIDATION = "validation"
    ROLLOUT = "rollout"
    FULL = "full"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts that the phase follows from."""

    has_v1: bool
    percent: float
    shadow_percent: float
    compared: int
    """Shadow calls that have been compared."""
    ramp: RampState
    pause: Pause | None
    """The guardrail's pause, if the ramp is paused by one."""
    has_plan: bool
    waits_for_approval: bool
    is_validated: bool
    """A validation has run on these pools."""
    checklist: Sequence[Item]
    warning: str | None
    """The ramp's warning about a promotion without evidence."""
    alarm: str | None
    """The reason of the alarm that V2 has become worse since its promotion, if there is one."""
    never_run: str | None
    """The programs with traffic that V2 has never run, in words, if there are any."""
    v2_fault: str | None
    """The reason for which V2 has no workers."""
    v1_calls: int
    """Calls that V1 has served in the last `QUIET_DAYS` days because somebody forced them or the split sent them."""
    forced_v1_calls: int
    """Calls among `v1_calls` that an admin's header forced."""
    is_pinned_to_v1: bool
    v1_sessions: int
    """Sessions within their time to live that V1 has served last."""


@dataclass(frozen=True, slots=True)
class Position:
    """The phase, the objections to the next one, and the one command that comes next."""

    phase: Phase
    against: tuple[str, ...]
    next: str
    settings: tuple[str, ...] = ()
    """The settings that the next phase takes, in the place of each kind of installation."""


_COMMAND = "poolshift "
_REPORT = "poolshift migration report"
"""The command that tells what to do about items that take no command."""

WITHOUT_V1 = (
    "environment, .env or compose: POOLS=v2",
    "chart: helm upgrade … --reuse-values --set config.POOLS=v2",
)
"""The settings that end V1. `V1_SUNSET` and `CANARY_PERCENT` may stay: they have no effect then."""


def position(facts: Facts) -> Position:
    """Tells where the migration is."""
    phase = phase_of(facts)
    against = tuple(_against(phase, facts))
    settings = WITHOUT_V1 if phase is Phase.FULL and not against else ()
    return Position(phase, against, _next(phase, facts), settings)


def phase_of(facts: Facts) -> Phase:
    """The phase alone."""
    if not facts.has_v1:
        return Phase.DONE
    if facts.percent >= 100:
        return Phase.FULL
    if facts.percent > 0 or facts.ramp.is_under_way:
        return Phase.ROLLOUT
    return Phase.VALIDATION if facts.is_validated else Phase.PARALLEL


def _against(phase: Phase, facts: Facts) -> list[str]:
    match phase:
        case Phase.PARALLEL:
            return _against_validation(facts)
        case Phase.VALIDATION:
            return _against_rollout(facts)
        case Phase.ROLLOUT:
            return _against_full(facts)
        case Phase.FULL:
            return _against_end(facts)
        case Phase.DONE:
            return []


def _next(phase: Phase, facts: Facts) -> str:
    match phase:
        case Phase.PARALLEL:
            return VALIDATE
        case Phase.VALIDATION:
            return _next_of_validation(facts)
        case Phase.ROLLOUT:
            return _next_of_rollout(facts)
        case Phase.FULL:
            return "poolshift migration status" if _against_end(facts) else "POOLS=v2 poolshift serve"
        case Phase.DONE:
            return ""


def _against_validation(facts: Facts) -> list[str]:
    against = _against_v2(facts)
    if facts.shadow_percent == 0:
        against.append("no calls run on V2 as well: V2 has not seen real inputs (poolshift rollout set 0 --shadow 10)")
    elif facts.compared == 0:
        against.append(
            "no call has been compared: V2 has not seen real inputs. Shadow calls are those of programs that are "
            "idempotent or say shadow (poolshift shadow report)"
        )
    return against


def _against_rollout(facts: Facts) -> list[str]:
    open_items = [one for one in facts.checklist if one.state is not ItemState.MET]
    return _against_v2(facts) + _never_run(facts) + [f"{one.item}: {one.state}, {one.evidence}" for one in open_items]


def _against_full(facts: Facts) -> list[str]:
    against = _against_v2(facts) + _never_run(facts)
    if facts.pause is not None:
        against += facts.pause.objections()
    elif facts.ramp is RampState.PAUSED:
        against.append("the plan is paused")
    if facts.ramp is RampState.WAITING:
        against.append("the plan waits: poolshift rollout status says for what")
    if not facts.ramp.is_under_way:
        against.append("no plan is under way: a person moves the percentage")
    return against


def _against_end(facts: Facts) -> list[str]:
    against = [one for one in (facts.warning, facts.alarm) if one is not None]
    against += _never_run(facts)
    if facts.is_pinned_to_v1:
        against.append("POOL_VERSION=v1 pins everything to V1")
    if facts.v1_sessions:
        against.append(f"{facts.v1_sessions:,} sessions were served by V1 last, and have not ended")
    if facts.v1_calls:
        forced = f", {facts.forced_v1_calls:,} of them forced by X-Pool-Version" if facts.forced_v1_calls else ""
        against.append(f"V1 has served {facts.v1_calls:,} calls in the last {QUIET_DAYS} days{forced}")
    return against


def _against_v2(facts: Facts) -> list[str]:
    return [] if facts.v2_fault is None else [f"V2 has no workers: {facts.v2_fault}"]


def _never_run(facts: Facts) -> list[str]:
    return [] if facts.never_run is None else [facts.never_run]


def _next_of_validation(facts: Facts) -> str:
    if any(one.state is ItemState.NOT_MET for one in facts.checklist):
        return _REPORT
    open_item = next((one for one in facts.checklist if one.state is ItemState.UNKNOWN and one.how), None)
    if open_item is not None:
        return open_item.how if open_item.how.startswith(_COMMAND) else _REPORT
    return "poolshift rollout start" if facts.has_plan else "poolshift rollout plan set plan.yaml"


def _next_of_rollout(facts: Facts) -> str:
    if facts.pause is not None:
        return facts.pause.look
    if facts.ramp is RampState.PAUSED:
        return "poolshift rollout resume"
    if facts.waits_for_approval:
        return "poolshift rollout approve"
    if facts.ramp.is_under_way:
        return "poolshift rollout watch"
    return "poolshift rollout start" if facts.has_plan else "poolshift rollout plan set plan.yaml"
