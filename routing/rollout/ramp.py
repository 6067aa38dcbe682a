"""The state machine of a ramp: what a plan, the evidence and people may do to it, and when.

Every transition is a function of the ramp and the facts, and returns a `Move`: the next ramp, and the effect that the
controller has to bring about. Nothing here does I/O or looks at a clock.

    idle ──start──► ramping ◄──► waiting ──evidence──► promoted
                      │  ▲          │
          pause, evidence, a        └── evidence, rollback ──► rolled_back
          person's change │                                        ▲
                      ▼  │ resume                                  │
                     paused ───────────── evidence, rollback ──────┤
                        └──────────────── abort ──► aborted

A pause stops moves upwards. Evidence against V2 rolls back in every state from ramping to paused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from analysis.verdict import Say, Verdict
from common.durations import duration_text
from routing.errors import NoPlan, PlanConflict, PlanMoved
from routing.rollout.coverage import Coverage
from routing.rollout.identity import UNKNOWN, Identity
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


ADVANCED_WITHOUT_EVIDENCE = "Advanced without evidence"


@dataclass(frozen=True, slots=True)
class Ramp:
    """One moment of a ramp. `step` is an index into the plan's steps, -1 before the first."""

    state: RampState = RampState.IDLE
    plan: Plan | None = None
    step: int = -1
    is_approved: bool = False
    approved_by: str | None = None
    """The one who has approved the step; None if nobody has, or if an older release has written it."""
    acknowledged: tuple[str, ...] = ()
    """Guardrails that paused the ramp, and that a person has overruled."""
    run: int = 0
    """Number of the start; evidence belongs to one run."""
    by: str = "start"
    reason: str | None = None
    identity: Identity = UNKNOWN
    """The pools that the evidence, the hold and the approval are about; without parts if they are not known."""
    paused_at: int | None = None
    """V2's share while a guardrail's pause keeps it below the step's, in hundredths of a percent."""
    pinned: str | None = None
    """The version that `POOL_VERSION` gives all calls: the ramp is held where it is, and its clocks stand still."""
    lacks_evidence: bool = False
    """A step since the start was left without evidence: by `on_inconclusive: advance`, or by a person."""
    is_alarmed: bool = False
    """V2 has become worse since its promotion; the reason says so."""

    def __repr__(self) -> str:
        at = f" step {self.step + 1} of {len(self.plan.steps)}" if self.plan and self.step >= 0 else ""
        return f"<Ramp {self.state}{at} run={self.run}>"

    @property
    def current(self) -> PlanStep | None:
        """The step that the ramp is at."""
        return self.plan.steps[self.step] if self.plan is not None and self.step >= 0 else None

    @property
    def is_at_last_step(self) -> bool:
        """Tells if the next move upwards is the promotion."""
        return self.plan is not None and self.state.is_active and self.step == self.plan.last_step

    @property
    def paused_by(self) -> str | None:
        """The guardrail that has paused the ramp. Its name is the beginning of the reason, in memory and store."""
        if self.state is not RampState.PAUSED or self.by != JUDGE or self.reason is None:
            return None
        return self.reason.partition(":")[0]

    @property
    def warning(self) -> str | None:
        """Words that stand wherever a promotion does, if a step was left without evidence."""
        return ADVANCED_WITHOUT_EVIDENCE if self.state is RampState.PROMOTED and self.lacks_evidence else None

    @property
    def is_guarded(self) -> bool:
        """Tells if evidence against V2 rolls back in this state."""
        return self.state.is_active or (self.state.is_under_way and self.plan is not None and self.plan.guard)


@dataclass(frozen=True, slots=True)
class SetPercent:
    """An effect: V2 gets this share, in hundredths of a percent."""

    basis_points: int
    source: Source
    reason: str
    is_told: bool = False
    """The history gets a revision even if the share stays as it is."""


@dataclass(frozen=True, slots=True)
class Note:
    """An effect: the history gets a revision that leaves V2's share as it is."""

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
    effect: SetPercent | Note | RollBack | None = None


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
    is_identified: bool = True
    """Tells if it is known what both pools are, so that evidence can be about them."""
    is_warm: bool = True
    """Tells if V2 has as many warm workers as its next share needs."""
    is_current: bool = True
    """Tells if the evidence is about the pools as they are."""
    pin: str | None = None
    """The version that `POOL_VERSION` gives all calls."""
    coverage: Coverage | None = None
    """The programs with traffic and their runs on V2; None if they are not known."""


MAX_NAMED = 5
"""Programs that a promotion names, of those that it has no evidence of."""
NEEDS_EVIDENCE = "the last step waits for evidence that V2 is no worse"
NEEDS_IDENTITY = "a pool does not tell what it is, so that no evidence can be about it"
NEEDS_SAME_POOLS = "the pools are others than those that the evidence is about, so that the step begins again"
NEEDS_COVERAGE = "it is not known yet which programs have traffic"
NEEDS_WARM_WORKERS = "V2 warms its workers for the next share"
JUDGE = "judge"
PLAN = "plan"


# --- by itself


def advance(ramp: Ramp, facts: Facts) -> Move | None:
    """Moves a ramp on the facts: back or to a stop on evidence, else on to the next step if it is time.

    A paused ramp moves back alone, and so does one that a pin holds.
    """
    step = ramp.current
    if step is None:
        return None
    if ramp.is_guarded and facts.verdict.action is Say.ROLLBACK:
        return _judged_back(ramp, facts)
    if not ramp.state.is_active or facts.pin is not None:
        return None
    if facts.verdict.action is Say.PAUSE and facts.verdict.guardrail not in ramp.acknowledged:
        return _judged_pause(ramp, step, facts)
    if (down := _down(facts)) is not None:
        return _paused(ramp, PLAN, Source.PLAN, down)
    return _resumed_holding(ramp) if facts.held_s < step.hold_s else _forwards(ramp, step, facts)


def _forwards(ramp: Ramp, step: PlanStep, facts: Facts) -> Move | None:
    """Leaves a step whose hold is over, or waits for what is missing."""
    missing = missing_for_next(ramp, step, facts)
    if missing is None:
        return _next(ramp, facts, has_evidence=facts.verdict.action is Say.PROMOTE)
    if is_inconclusive(ramp, step, facts):
        return _inconclusive(ramp, facts, missing)
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
    if (unready := _unready(facts)) is not None:
        return unready
    if facts.calls < step.min_calls:
        return f"not enough calls: {facts.calls:,} of {step.min_calls:,}"
    if step.approval and not ramp.is_approved:
        return "this step waits for a person's approval"
    if ramp.step == ramp.plan.last_step and facts.verdict.action is not Say.PROMOTE:
        return NEEDS_EVIDENCE
    if ramp.step == ramp.plan.last_step and (short := _coverage_missing(ramp.plan, facts.coverage)) is not None:
        return short
    return None if facts.is_warm else NEEDS_WARM_WORKERS


def _coverage_missing(plan: Plan, coverage: Coverage | None) -> str | None:
    """Tells which programs V2 has run too rarely for the plan's promotion."""
    if plan.coverage is None:
        return None
    if coverage is None:
        return NEEDS_COVERAGE
    return coverage.missing(plan.coverage.programs, plan.coverage.min_calls)


def _unready(facts: Facts) -> str | None:
    """Tells why the evidence cannot be about the pools, if that is so."""
    if facts.pin is not None:
        return held_text(facts.pin)
    if not facts.is_identified:
        return NEEDS_IDENTITY
    return None if facts.is_current else NEEDS_SAME_POOLS


def not_shown_text(programs: Sequence[str]) -> str:
    """Names the programs with too few calls for evidence that V2 is not slower in them."""
    named = ", ".join(programs[:MAX_NAMED])
    more = f" and {len(programs) - MAX_NAMED:,} others" if len(programs) > MAX_NAMED else ""
    return f"not shown, for too few calls, that V2 is not slower in {named}{more}"


def held_text(pin: str) -> str:
    """Says that a pin holds a ramp."""
    return f"held: POOL_VERSION={pin} pins all calls"


def is_inconclusive(ramp: Ramp, step: PlanStep, facts: Facts) -> bool:
    """Tells if evidence has been waited for as long as the plan allows.

    An approval, and pools that are not ready to be compared, are waited for without a limit.
    """
    assert ramp.plan is not None
    if _unready(facts) is not None or not facts.is_warm:
        return False
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


def _judged_pause(ramp: Ramp, step: PlanStep, facts: Facts) -> Move:
    """Stops the ramp on evidence, and takes V2's share back to what the plan says for this guardrail, if it does."""
    assert ramp.plan is not None
    reason = evidence_text(facts)
    back_to = ramp.plan.back_to(facts.verdict.guardrail)
    if back_to is None or back_to >= step.basis_points:
        return _paused(ramp, JUDGE, Source.JUDGE, reason)
    told = f"paused, and V2 goes back to {back_to / 100:g} %: {reason}"
    paused = replace(_to(ramp, RampState.PAUSED, JUDGE, reason), paused_at=back_to)
    return Move(paused, SetPercent(back_to, Source.PAUSE, told))


def _paused(ramp: Ramp, by: str, source: Source, reason: str | None) -> Move:
    told = f"paused: {reason or 'no reason given'}"
    return Move(_to(ramp, RampState.PAUSED, by, reason), Note(source, told))


def _resumed_holding(ramp: Ramp) -> Move | None:
    if ramp.state is RampState.RAMPING:
        return None
    return Move(_to(ramp, RampState.RAMPING, PLAN, None))


def _next(ramp: Ramp, facts: Facts, *, has_evidence: bool) -> Move:
    assert ramp.plan is not None
    if ramp.step == ramp.plan.last_step:
        reason = "evidence that V2 is no worse" if has_evidence else "no evidence came, and the plan says advance"
        if facts.coverage is not None and (never := facts.coverage.never_run_text()) is not None:
            reason = f"{reason}; {never}"
        if has_evidence and facts.verdict.not_shown:
            reason = f"{reason}; {not_shown_text(facts.verdict.not_shown)}"
        source = Source.JUDGE if has_evidence else Source.PLAN
        by = JUDGE if has_evidence else PLAN
        return Move(_to(ramp, RampState.PROMOTED, by, reason), SetPercent(BASIS_POINTS, source, reason))
    return _at_step(ramp, ramp.step + 1, PLAN, None)


def _inconclusive(ramp: Ramp, facts: Facts, missing: str) -> Move:
    assert ramp.plan is not None
    if ramp.plan.on_inconclusive == "advance":
        return _next(replace(ramp, lacks_evidence=True), facts, has_evidence=False)
    reason = f"inconclusive after {ramp.plan.max_wait_s:g} s: {missing}"
    return Move(_to(ramp, RampState.ROLLED_BACK, PLAN, reason), RollBack(Source.PLAN, reason))


# --- by people


def set_plan(ramp: Ramp, plan: Plan | None, by: str) -> Move:
    """Keeps `plan` for the next start; None forgets the plan. The end of the last ramp stays to be seen until then.

    Raises PlanConflict if a plan is under way.
    """
    if ramp.state.is_under_way:
        raise PlanConflict(f"a plan is under way ({ramp.state}): abort it first")
    if ramp.state is RampState.IDLE:
        return Move(replace(ramp, plan=plan, step=-1, by=by, reason=None))
    return Move(replace(ramp, plan=plan, step=-1))


def start(
    ramp: Ramp,
    by: str,
    reason: str | None,
    share: int = 0,
    identity: Identity | None = None,
    *,
    lowers: bool = False,
) -> Move:
    """Begins the plan at its first step, with no evidence.

    `share` is V2's now, in hundredths of a percent. A start that takes some of it away needs the word `lowers`.
    `identity` is what the pools are; None leaves that to be found.

    Raises:
        PlanConflict: a plan is under way, or the first step is below `share`.
        NoPlan: there is none.
    """
    if ramp.state.is_under_way:
        raise PlanConflict(f"a plan is under way ({ramp.state}): abort it first")
    if ramp.plan is None:
        raise NoPlan("there is no plan: PUT /rollout/plan, or ROLLOUT_PLAN_FILE")
    first = ramp.plan.steps[0]
    if share > first.basis_points and not lowers:
        raise PlanConflict(
            f"V2 gets {share / 100:g} %, and the plan begins at {first.percent:g} %: "
            "start it with `lower` (--lower) to take the difference from V2"
        )
    fresh = replace(
        ramp,
        run=ramp.run + 1,
        acknowledged=(),
        identity=identity or UNKNOWN,
        pinned=None,
        lacks_evidence=False,
        is_alarmed=False,
    )
    return _at_step(fresh, 0, by, reason)


def pause(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Stops a ramp where it is. Raises PlanConflict."""
    _require(ramp, ramp.state.is_active, "pause")
    return _paused(ramp, by, Source.PLAN, reason)


def resume(ramp: Ramp, by: str, reason: str | None, paused_by: str | None) -> Move:
    """Goes on at the step that the ramp stopped at, and overrules the guardrail that paused it. Raises PlanConflict."""
    _require(ramp, ramp.state is RampState.PAUSED, "resume")
    overruled = (*ramp.acknowledged, paused_by) if paused_by is not None else ramp.acknowledged
    move = _at_step(replace(ramp, acknowledged=tuple(dict.fromkeys(overruled))), ramp.step, by, reason)
    assert isinstance(move.effect, SetPercent)
    told = f"resumed, {paused_by} overruled" if paused_by is not None else "resumed"
    return replace(move, effect=replace(move.effect, reason=f"{told}: {move.effect.reason}", is_told=True))


def approve(ramp: Ramp, by: str, reason: str | None, step: int | None = None) -> Move:
    """Lets the ramp leave its step, or stay a paused one's approval for later.

    `step` counts from 1 and names the step that is meant; None is the current one. So two people who approve the same
    step do not move the ramp by two.

    Raises:
        PlanConflict: no plan is under way, it is at another step than `step`, or the step is approved already.
    """
    _require(ramp, ramp.state.is_under_way, "approve")
    if step is not None and step != ramp.step + 1:
        raise PlanConflict(f"cannot approve step {step}: the plan is at step {ramp.step + 1}")
    if ramp.is_approved:
        raise PlanConflict(f"step {ramp.step + 1} is approved already, by {ramp.approved_by or 'somebody'}")
    told = f"step {ramp.step + 1} approved: {reason or 'no reason given'}"
    kept = ramp if ramp.state is RampState.PAUSED else replace(ramp, by=by, reason=reason)
    return Move(replace(kept, is_approved=True, approved_by=by), Note(Source.PLAN, told))


def promote(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Gives V2 everything without waiting for evidence. Raises PlanConflict."""
    _require(ramp, ramp.state.is_under_way, "promote")
    told = f"promoted without waiting for evidence: {reason or 'no reason given'}"
    promoted = replace(_to(ramp, RampState.PROMOTED, by, told), lacks_evidence=True)
    return Move(promoted, SetPercent(BASIS_POINTS, Source.API, told))


def abort(ramp: Ramp, by: str, reason: str | None) -> Move:
    """Ends the plan and rolls back. Raises PlanConflict."""
    _require(ramp, ramp.state.is_under_way, "abort")
    return Move(_to(ramp, RampState.ABORTED, by, reason), RollBack(Source.ABORT, reason))


# --- by what happens around it


def percent_changed(ramp: Ramp, rollout: Rollout) -> Move | None:
    """Takes note of a new percentage that is not the ramp's own: a rollback ends the ramp, other changes pause it."""
    if _is_ramps_own(rollout):
        return None
    if voids_earlier_changes(rollout.canary_basis_points, rollout.source):
        if ramp.state.is_under_way or ramp.state is RampState.PROMOTED:
            end = RampState.ABORTED if rollout.source is Source.ABORT else RampState.ROLLED_BACK
            return Move(_to(ramp, end, rollout.updated_by, rollout.reason))
        return None
    if ramp.state is RampState.PROMOTED and rollout.canary_basis_points == BASIS_POINTS:
        return None  # a person's promotion, or another word for what is in force
    if ramp.state.is_active:
        return Move(_to(ramp, RampState.PAUSED, rollout.updated_by, _told_change(rollout)))
    if ramp.state is RampState.PROMOTED:
        return Move(_to(ramp, RampState.IDLE, rollout.updated_by, _told_change(rollout)))
    return Move(replace(ramp, paused_at=None)) if ramp.paused_at is not None else None


def _is_ramps_own(rollout: Rollout) -> bool:
    """Tells if a plan, or the judge, has set a percentage that is no rollback."""
    if rollout.source is Source.PAUSE:
        return True
    return rollout.source in (Source.PLAN, Source.JUDGE) and rollout.canary_basis_points > 0


def _told_change(rollout: Rollout) -> str:
    changed = f"{rollout.updated_by} changed the percentage to {rollout.canary_percent:g} ({rollout.source})"
    return f"{changed}: {rollout.reason}" if rollout.reason else changed


def evidence_restarted(ramp: Ramp, why: str | None, identity: Identity | None = None) -> Move:
    """Begins the ramp's step again, without evidence and without its approval: V2, or V1, is another one.

    `why` None says that the history has the reason already. `identity` is what the pools are from now on; None leaves
    that to be found. A paused ramp stays paused, and a ramp that has ended keeps its end.
    """
    fresh = replace(ramp, run=ramp.run + 1, acknowledged=(), identity=identity or ramp.identity)
    fresh = replace(fresh, is_approved=False, approved_by=None, is_alarmed=False)
    if why is None:
        return Move(replace(fresh, state=RampState.RAMPING) if ramp.state.is_active else fresh)
    again = f"evidence starts again: {why}"
    if ramp.state.is_active:
        return Move(replace(fresh, state=RampState.RAMPING, by=PLAN, reason=again), Note(Source.PLAN, again))
    if ramp.state is RampState.PAUSED:
        return Move(replace(fresh, reason=f"{ramp.reason}; {again}" if ramp.reason else again))
    return Move(fresh)


def is_foreign(ramp: Ramp, identity: Identity, *, has_evidence: bool) -> bool:
    """Tells if the ramp's evidence is about other pools than those of `identity`.

    `has_evidence` tells if calls are compared although no plan is under way.
    """
    return identity != ramp.identity and (ramp.state.is_under_way or has_evidence)


def pools_found(ramp: Ramp, identity: Identity, why: Callable[[], str | None]) -> Move:
    """Takes note of other pools than the evidence is about; that voids the evidence. `why` says what has changed."""
    if not ramp.identity.parts:  # of a ramp that has just begun, or that an older release has written
        return Move(replace(ramp, identity=identity))
    return evidence_restarted(ramp, why(), identity)


def pin_found(ramp: Ramp, pin: str | None) -> Move | None:
    """Takes note that `POOL_VERSION` holds a ramp that is under way, or holds it no longer."""
    if pin == ramp.pinned or not ramp.state.is_under_way:
        return None
    told = "held no longer: POOL_VERSION pins no calls" if pin is None else held_text(pin)
    return Move(replace(ramp, pinned=pin), Note(Source.PLAN, told))


def found_after(ramp: Ramp, seconds: float) -> Move | None:
    """Pauses a ramp that nobody has carried out for `seconds`: its database may be an old copy, or V2 another one."""
    if not ramp.state.is_active:
        return None
    return _paused(
        ramp,
        PLAN,
        Source.PLAN,
        f"found after {duration_text(seconds)} in which no service carried it out: look, then resume",
    )


def next_share(ramp: Ramp) -> int:
    """V2's share after the ramp's next move upwards, in hundredths of a percent."""
    if ramp.plan is None or not ramp.state.is_under_way:
        return 0
    following = ramp.step + 1
    if ramp.step >= ramp.plan.last_step or following >= len(ramp.plan.steps):
        return BASIS_POINTS
    return ramp.plan.steps[following].basis_points


def first_share(ramp: Ramp) -> int:
    """V2's share after a start, in hundredths of a percent; 0 without a plan."""
    return 0 if ramp.plan is None else ramp.plan.steps[0].basis_points


def own_share(ramp: Ramp) -> SetPercent | None:
    """The share that the ramp gives V2 in its state, None if it gives none."""
    if ramp.state is RampState.PROMOTED:
        return SetPercent(BASIS_POINTS, Source.PLAN, ramp.reason or "promoted")
    if ramp.state.is_active:
        effect = _at_step(ramp, ramp.step, PLAN, None).effect
        return effect if isinstance(effect, SetPercent) else None
    if ramp.paused_at is not None:
        return SetPercent(ramp.paused_at, Source.PAUSE, f"paused: {ramp.reason}")
    return None


def moved_elsewhere(ramp: Ramp) -> PlanMoved:
    """The error of a request that another move, of another replica or of the judge, has overtaken."""
    return PlanMoved(f"the plan has moved meanwhile: it is {ramp.state} now")


def relapsed(ramp: Ramp, reason: str, *, rolls_back: bool) -> Move | None:
    """Takes note once that V2 has become worse since its promotion: in the history and the reason, or by a rollback."""
    if ramp.state is not RampState.PROMOTED or ramp.is_alarmed:
        return None
    if rolls_back:
        return Move(_to(ramp, RampState.ROLLED_BACK, JUDGE, reason), RollBack(Source.JUDGE, reason))
    return Move(replace(ramp, by=JUDGE, reason=reason, is_alarmed=True), Note(Source.JUDGE, reason))


def _require(ramp: Ramp, is_allowed: bool, what: str) -> None:  # noqa: FBT001 - one condition, one word
    if not is_allowed:
        raise PlanConflict(f"cannot {what}: the plan is {ramp.state}")


def _to(ramp: Ramp, state: RampState, by: str, reason: str | None) -> Ramp:
    return replace(ramp, state=state, by=by, reason=reason, paused_at=None)


def _at_step(ramp: Ramp, index: int, by: str, reason: str | None) -> Move:
    assert ramp.plan is not None
    step = ramp.plan.steps[index]
    told = f"{ramp.plan.name}: step {index + 1} of {len(ramp.plan.steps)}" + (f", {reason}" if reason else "")
    at = replace(_to(ramp, RampState.RAMPING, by, reason), step=index, is_approved=False, approved_by=None)
    return Move(at, SetPercent(step.basis_points, Source.PLAN, told))
