"""The state machine of a ramp: what a plan, the evidence and people may do to it, and when.

Every transition is a function of the ramp and the facts, and returns a `Move`: the next ramp, and the effect that the
controller has to bring about. Nothing here does I/O or looks at a clock.

    idle ──start──► ramping ◄──► waiting ──evidence──► promoted
                      │  ▲          │
          pause, evidence, a        └── evidence, rollback ──► rolled_back
          person's change │
                      ▼  │ resume
                     paused ──abort──► aborted
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from analysis.verdict import Say, Verdict
from routing.errors import NoPlan, PlanConflict
from routing.rollout.model import Rollout, Source, voids_earlier_changes
from routing.rollout.plan import Plan, PlanStep
from routing.split import BASIS_POINTS


class RampState(StrEnum):
    """The state of a ramp; the last three are ends."""

    IDLE = "idle"
    RAMPING = "ramping"
    WAITING = "waiting"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def is_active(self) -> bool:
        """Tells if the plan goes on by itself."""
        return self in (RampState.RAMPING, RampState.WAITING)

    @property
    def is_under_way(self) -> bool:
        """Tells if the plan has been started and has not ended."""
        return self.is_active or self is RampState.PAUSED


@dataclass(frozen=True, slots=True)
class Ramp:
    """One moment of a ramp. `step` is an index into the plan's steps, -1 before the first."""

    state: RampState = RampState.IDLE
    plan: Plan | None = None
    step: int = -1
    is_approved: bool = False
    acknowledged: tuple[str, ...] = ()
    """Guardrails that paused the ramp, and that a person has overruled."""
    run: int = 0
    """Number of the start; evidence belongs to one run."""
    by: str = "start"
    reason: str | None = None

    def __repr__(self) -> str:
        at = f" step {self.step + 1} of {len(self.plan.steps)}" if self.plan and self.step >= 0 else ""
        return f"<Ramp {self.state}{at} run={self.run}>"

    @property
    def current(self) -> PlanStep | None:
        """The step that the ramp is at."""
        return self.plan.steps[self.step] if self.plan is not None and self.step >= 0 else None


@dataclass(frozen=True, slots=True)
class SetPercent:
    """An effect: V2 gets this share, in hundredths of a percent."""

    basis_points: int
    source: Source
    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """An effect: everything goes to V1 at once."""

    source: Source
    reason: str | None


@dataclass(frozen=True, slots=True)
class Move:
    """The result of a transition."""

    ramp: Ramp
    effect: SetPercent | RollBack | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of the world when the ramp is asked whether it moves. Times in seconds."""

    verdict: Verdict
    held_s: float
    """Since the step began, or was resumed."""
    waited_s: float
    """Since the ramp has been waiting, 0 if it is not."""
    calls: int
    """Organic calls of both versions at this step."""
    v1_serves: bool
    told: str = ""
    """The counts behind the verdict, in words."""
    v2_serves: bool = True


NEEDS_EVIDENCE = "the last step waits for evidence that V2 is no worse"
JUDGE = "judge"
PLAN = "plan"


# --- by itself


def advance(ramp: Ramp, facts: Facts) -> Move | None:
    """Moves an active ramp on the facts: back or to a stop on evidence, else on to the next step if it is time."""
    step = ramp.current
    if not ramp.state.is_active or step is None:
        return None
    if facts.verdict.action is Say.ROLLBACK:
        return _judged_back(ramp, facts)
    if facts.verdict.action is Say.PAUSE and facts.verdict.guardrail not in ramp.acknowledged:
        return Move(_to(ramp, RampState.PAUSED, JUDGE, evidence_text(facts)))
    if (down := _down(facts)) is not None:
        return Move(_to(ramp, RampState.PAUSED, PLAN, down))
    if facts.held_s < step.hold_s:
        return _resumed_holding(ramp)
    missing = missing_for_next(ramp, step, facts)
    if missing is None:
        return _next(ramp, facts.verdict.action is Say.PROMOTE)
    if is_inconclusive(ramp, step, facts):
        return _inconclusive(ramp, missing)
    if ramp.state is RampState.WAITING and _kind(ramp.reason) == _kind(missing):
        return None  # the number of calls has changed, and nothing else
    return Move(_to(ramp, RampState.WAITING, PLAN, missing))


def _down(facts: Facts) -> str | None:
    """Tells which pool has nobody to take calls, if one has."""
    if not facts.v1_serves:
        return "V1 has no live worker: there is nothing to compare V2 with"
    return None if facts.v2_serves else "V2 has no live worker: its share of the calls goes to V1"


def missing_for_next(ramp: Ramp, step: PlanStep, facts: Facts) -> str | None:
    """The condition that still keeps the ramp at its step, None if it may go on."""
    assert ramp.plan is not None
    if facts.calls < step.min_calls:
        return f"not enough calls: {facts.calls:,} of {step.min_calls:,}"
    if step.approval and not ramp.is_approved:
        return "this step waits for a person's approval"
    if ramp.step == ramp.plan.last_step and facts.verdict.action is not Say.PROMOTE:
        return NEEDS_EVIDENCE
    return None


def is_inconclusive(ramp: Ramp, step: PlanStep, facts: Facts) -> bool:
    """Tells if evidence has been waited for as long as the plan allows. An approval is waited for without a limit."""
    assert ramp.plan is not None
    waits_for_person = facts.calls >= step.min_calls and step.approval and not ramp.is_approved
    limit = ramp.plan.max_wait_s
    return (
        ramp.plan.on_inconclusive != "hold" and limit is not None and facts.waited_s >= limit and not waits_for_person
    )


def _kind(reason: str | None) -> str:
    return (reason or "").partition(":")[0]


def evidence_text(facts: Facts) -> str:
    """A verdict's evidence in words, for the history."""
    verdict = facts.verdict
    stratum = "" if verdict.stratum == "all" else f", mostly by {verdict.stratum}"
    evidence = f"log e-value {verdict.log_e:.2f} reached {verdict.threshold:.2f}{stratum}"
    return f"{verdict.guardrail}: {facts.told} ({evidence})" if facts.told else f"{verdict.guardrail}: {evidence}"


def _judged_back(ramp: Ramp, facts: Facts) -> Move:
    reason = evidence_text(facts)
    return Move(_to(ramp, RampState.ROLLED_BACK, JUDGE, reason), RollBack(Source.JUDGE, reason))


def _resumed_holding(ramp: Ramp) -> Move | None:
    if ramp.state is RampState.RAMPING:
        return None
    return Move(_to(ramp, RampState.RAMPING, PLAN, None))


def _next(ramp: Ramp, has_evidence: bool) -> Move:  # noqa: FBT001 - the word that the caller has just read
    assert ramp.plan is not None
    if ramp.step == ramp.plan.last_step:
        reason = "evidence that V2 is no worse" if has_evidence else "no evidence came, and the plan says advance"
        source = Source.JUDGE if has_evidence else Source.PLAN
        by = JUDGE if has_evidence else PLAN
        return Move(_to(ramp, RampState.PROMOTED, by, reason), SetPercent(BASIS_POINTS, source, reason))
    return _at_step(ramp, ramp.step + 1, PLAN, None)


def _inconclusive(ramp: Ramp, missing: str) -> Move:
    assert ramp.plan is not None
    if ramp.plan.on_inconclusive == "advance":
        return _next(ramp, has_evidence=False)
    reason = f"inconclusive after {ramp.plan.max_wait_s:g} s: {missing}"
    return Move(_to(ramp, RampState.ROLLED_BACK, PLAN, reason), RollBack(Source.PLAN, reason))


# --- by people


def set_plan(ramp: Ramp, plan: Plan | None, by: str) -> Move:
    """Keeps `plan` for the next start. Raises PlanConflict if another plan is under way."""
    if ramp.state.is_under_way:
        raise PlanConflict(f"a plan is under way ({ramp.state}): abort it first")
    return Move(replace(ramp, plan=plan, state=RampState.IDLE, step=-1, by=by, reason=None))


def start(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Begins the plan at its first step, with no evidence.

    Raises:
        PlanConflict: a plan is under way.
        NoPlan: there is none.
    """
    if ramp.state.is_under_way:
        raise PlanConflict(f"a plan is under way ({ramp.state}): abort it first")
    if ramp.plan is None:
        raise NoPlan("there is no plan: PUT /rollout/plan, or ROLLOUT_PLAN_FILE")
    return _at_step(replace(ramp, run=ramp.run + 1, acknowledged=()), 0, by, reason)


def pause(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Stops a ramp where it is. Raises PlanConflict."""
    _require(ramp, ramp.state.is_active, "pause")
    return Move(_to(ramp, RampState.PAUSED, by, reason))


def resume(ramp: Ramp, by: str, reason: str | None, paused_by: str | None) -> Move:
    """Goes on at the step that the ramp stopped at, and overrules the guardrail that paused it. Raises PlanConflict."""
    _require(ramp, ramp.state is RampState.PAUSED, "resume")
    overruled = (*ramp.acknowledged, paused_by) if paused_by is not None else ramp.acknowledged
    return _at_step(replace(ramp, acknowledged=tuple(dict.fromkeys(overruled))), ramp.step, by, reason)


def approve(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Lets the ramp leave its step. Raises PlanConflict."""
    _require(ramp, ramp.state.is_under_way, "approve")
    return Move(replace(ramp, is_approved=True, by=by, reason=reason))


def promote(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Gives V2 everything without waiting for evidence. Raises PlanConflict."""
    _require(ramp, ramp.state.is_under_way, "promote")
    told = f"promoted without waiting for evidence: {reason or 'no reason given'}"
    return Move(_to(ramp, RampState.PROMOTED, by, told), SetPercent(BASIS_POINTS, Source.PLAN, told))


def abort(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Ends the plan and rolls back. Raises PlanConflict."""
    _require(ramp, ramp.state.is_under_way, "abort")
    return Move(_to(ramp, RampState.ABORTED, by, reason), RollBack(Source.ROLLBACK, reason))


# --- by what happens around it


def percent_changed(ramp: Ramp, rollout: Rollout) -> Move | None:
    """Takes note of a new percentage that is not the ramp's own: a rollback ends the ramp, other changes pause it."""
    if rollout.source in (Source.PLAN, Source.JUDGE) and rollout.canary_basis_points > 0:
        return None
    if voids_earlier_changes(rollout.canary_basis_points, rollout.source):
        if ramp.state.is_under_way or ramp.state is RampState.PROMOTED:
            return Move(_to(ramp, RampState.ROLLED_BACK, rollout.updated_by, rollout.reason))
        return None
    changed = f"{rollout.updated_by} changed the percentage to {rollout.canary_percent:g} ({rollout.source})"
    if ramp.state.is_active:
        return Move(_to(ramp, RampState.PAUSED, rollout.updated_by, changed))
    if ramp.state is RampState.PROMOTED:
        return Move(_to(ramp, RampState.IDLE, rollout.updated_by, changed))
    return None


def evidence_restarted(ramp: Ramp, why: str) -> Move:
    """Begins with no evidence, at the step that the ramp is at."""
    return Move(replace(ramp, run=ramp.run + 1, acknowledged=(), by=PLAN, reason=f"evidence starts again: {why}"))


def own_share(ramp: Ramp) -> SetPercent | None:
    """The share that the ramp gives V2 in its state, None if it gives none."""
    if ramp.state is RampState.PROMOTED:
        return SetPercent(BASIS_POINTS, Source.PLAN, ramp.reason or "promoted")
    if ramp.state.is_active:
        effect = _at_step(ramp, ramp.step, PLAN, None).effect
        return effect if isinstance(effect, SetPercent) else None
    return None


def moved_elsewhere(ramp: Ramp) -> PlanConflict:
    """The error of a request that another move, of another replica or of the judge, has overtaken."""
    return PlanConflict(f"the plan has moved meanwhile: it is {ramp.state} now")


def _require(ramp: Ramp, is_allowed: bool, what: str) -> None:  # noqa: FBT001 - one condition, one word
    if not is_allowed:
        raise PlanConflict(f"cannot {what}: the plan is {ramp.state}")


def _to(ramp: Ramp, state: RampState, by: str, reason: str | None) -> Ramp:
    return replace(ramp, state=state, by=by, reason=reason)


def _at_step(ramp: Ramp, index: int, by: str, reason: str | None) -> Move:
    assert ramp.plan is not None
    step = ramp.plan.steps[index]
    told = f"{ramp.plan.name}: step {index + 1} of {len(ramp.plan.steps)}" + (f", {reason}" if reason else "")
    at = replace(ramp, state=RampState.RAMPING, step=index, is_approved=False, by=by, reason=reason)
    return Move(at, SetPercent(step.basis_points, Source.PLAN, told))
