"""The state machine of a ramp, transition by transition, without a clock, a flag or a store."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.verdict import Say, Verdict
from routing.errors import NoPlan, PlanConflict
from routing.rollout import ramp as ramps
from routing.rollout.coverage import Coverage, ProgramRuns
from routing.rollout.model import Rollout, Source
from routing.rollout.outlook import outlook
from routing.rollout.plan import Plan
from routing.rollout.ramp import NEEDS_COVERAGE, Facts, Move, Ramp, RampState, RollBack, SetPercent
from routing.rollout.ramp_json import from_json, to_json

STEPS = [{"percent": 1, "hold_s": 60, "min_calls": 100}, {"percent": 50, "hold_s": 60, "min_calls": 100}]


def plan(**changes: Any) -> Plan:
    return Plan.model_validate({"steps": STEPS, **changes})


def verdict(action: Say = Say.CONTINUE, guardrail: str | None = None) -> Verdict:
    return Verdict(action, guardrail, 9.0, 5.0, "all", 0.0)


def facts(**changes: Any) -> Facts:
    return replace(Facts(verdict(), held_s=61.0, waited_s=0.0, calls=1000, v1_serves=True), **changes)


def started(**changes: Any) -> Ramp:
    return ramps.start(Ramp(plan=plan(**changes)), "ops", None).ramp


def at_last_step(**changes: Any) -> Ramp:
    move = ramps.advance(started(**changes), facts())
    assert move is not None
    assert move.ramp.step == 1
    return move.ramp


def promoted(**changes: Any) -> Ramp:
    move = ramps.advance(at_last_step(**changes), facts(verdict=verdict(Say.PROMOTE)))
    assert move is not None
    return move.ramp


def test_a_relapse_is_told_once_or_rolled_back() -> None:
    """The history has it, and the ramp stays promoted; with `rollback` it is one of the judge's."""
    told = ramps.relapsed(promoted(), "V2 has become worse", rolls_back=False)
    assert told is not None
    assert isinstance(told.effect, ramps.Note)
    assert (told.ramp.state, told.ramp.is_alarmed, told.ramp.by) == (RampState.PROMOTED, True, "judge")
    assert from_json(to_json(told.ramp)) == told.ramp
    assert ramps.relapsed(told.ramp, "again", rolls_back=True) is None
    back = ramps.relapsed(promoted(), "V2 has become worse", rolls_back=True)
    assert back is not None
    assert isinstance(back.effect, RollBack)
    assert (back.ramp.state, back.effect.source) == (RampState.ROLLED_BACK, Source.JUDGE)
    assert ramps.relapsed(back.ramp, "again", rolls_back=True) is None
    assert ramps.relapsed(started(), "not promoted", rolls_back=True) is None


def test_another_v2_has_no_alarm() -> None:
    """Other code, and another start, are another V2's."""
    told = ramps.relapsed(promoted(), "V2 has become worse", rolls_back=False)
    assert told is not None
    assert not ramps.evidence_restarted(told.ramp, "reloaded").ramp.is_alarmed
    assert not ramps.start(told.ramp, "ops", None, lowers=True).ramp.is_alarmed


UNTRIED = Coverage((ProgramRuns("a", 60, 0), ProgramRuns("b", 0, 3)))
TRIED = Coverage((ProgramRuns("a", 60, 0), ProgramRuns("b", 30, 20)))


def test_a_promotion_waits_for_the_programs_of_the_plan() -> None:
    """Evidence alone does not do: V2 must have run the programs that have traffic, which must be known."""
    ramp = at_last_step(coverage={"programs": 1.0})
    evident = facts(verdict=verdict(Say.PROMOTE))
    for coverage, reason in ((None, NEEDS_COVERAGE), (UNTRIED, "V2 has run too few calls: of 1 of 2 programs")):
        move = ramps.advance(ramp, replace(evident, coverage=coverage))
        assert move is not None
        assert move.ramp.state is RampState.WAITING
        assert (move.ramp.reason or "").startswith(reason)
    move = ramps.advance(ramp, replace(evident, coverage=TRIED))
    assert move is not None
    assert (move.ramp.state, move.ramp.reason) == (RampState.PROMOTED, "evidence that V2 is no worse")


def test_a_promotion_names_the_programs_that_v2_has_never_run() -> None:
    """Without a word on them in the plan, too; earlier steps wait for none."""
    never = Coverage((ProgramRuns("a", 60, 0), ProgramRuns("b", 0, 0)))
    move = ramps.advance(at_last_step(), facts(verdict=verdict(Say.PROMOTE), coverage=never))
    assert move is not None
    assert (move.ramp.reason or "").endswith("V2 has never run 1 of 2 programs with traffic in the last 24 h: b")
    earlier = ramps.advance(started(coverage={"min_calls": 1}), facts(coverage=never))
    assert earlier is not None
    assert (earlier.ramp.state, earlier.ramp.step) == (RampState.RAMPING, 1)


def test_a_start_sets_the_first_step() -> None:
    """The evidence of a start belongs to it alone: each has a number of its own."""
    move = ramps.start(Ramp(plan=plan(), run=4), "ops", "release 7")
    assert (move.ramp.state, move.ramp.step, move.ramp.run) == (RampState.RAMPING, 0, 5)
    assert isinstance(move.effect, SetPercent)
    assert (move.effect.basis_points, move.effect.source) == (100, Source.PLAN)


@pytest.mark.parametrize(
    ("changed", "state", "reason"),
    [
        ({"held_s": 59.0}, RampState.RAMPING, None),
        ({"calls": 99}, RampState.WAITING, "not enough calls: 99 of 100"),
        ({"calls": 0}, RampState.WAITING, "not enough calls: 0 of 100"),
        ({"v1_serves": False}, RampState.PAUSED, "V1 has no live worker: there is nothing to compare V2 with"),
        ({"verdict": verdict(Say.PAUSE, "srm")}, RampState.PAUSED, "srm: log e-value 9.00 reached 5.00"),
        ({"verdict": verdict(Say.ROLLBACK, "engine")}, RampState.ROLLED_BACK, "engine: log e-value 9.00 reached 5.00"),
        ({"verdict": verdict(Say.PROMOTE)}, RampState.RAMPING, None),
    ],
)
def test_a_step_is_left_upwards_only_if_nothing_speaks_against_it(
    changed: dict[str, Any], state: RampState, reason: str | None
) -> None:
    """The hold, the calls, V1 and the evidence each keep it, and evidence comes before everything."""
    ramp = started()
    move = ramps.advance(ramp, facts(**changed))
    after = ramp if move is None else move.ramp
    assert (after.state, after.reason) == (state, reason)
    assert after.step == (1 if changed.get("verdict") == verdict(Say.PROMOTE) else 0)


@pytest.mark.parametrize(
    ("percent", "said"),
    [(0.0, "nothing: the plan has ended (aborted)"), (50.0, "(aborted), and the 50 % were set since, by a person")],
)
def test_a_share_after_the_plans_end_is_not_the_plans(percent: float, said: str) -> None:
    """Nobody may take it for that of a ramp which goes on."""
    ended = ramps.abort(started(), "ops", None).ramp
    assert outlook(ended, facts(), percent).endswith(said)


def test_after_a_guardrails_pause_a_person_looks_before_going_on() -> None:
    """To resume would overrule the guardrail, so nothing names it as the next step; a person's own pause may end so."""
    paused = ramps.advance(started(), facts(verdict=verdict(Say.PAUSE, "srm")))
    assert paused is not None
    said = outlook(paused.ramp, facts(), 1.0)
    assert said.startswith("nothing: look at the evidence of srm, then mend V2 or abort the plan")
    assert "resume" not in said
    by_person = ramps.pause(started(), "ops", "a sale is on").ramp
    assert (by_person.paused_by, outlook(by_person, facts(), 1.0)) == (
        None,
        "nothing until the plan is resumed, promoted or aborted; evidence against V2 rolls back",
    )


def test_a_rollback_by_evidence_is_a_rollback() -> None:
    """The effect names the judge, and is the same at every step and in a pause, and whatever else is missing."""
    for ramp in (started(), at_last_step(), ramps.pause(started(), "ops", None).ramp):
        move = ramps.advance(ramp, facts(verdict=verdict(Say.ROLLBACK, "engine"), held_s=0.0, calls=0, v1_serves=False))
        assert move is not None
        assert move.effect == RollBack(Source.JUDGE, "engine: log e-value 9.00 reached 5.00")


def test_the_last_step_is_left_on_evidence_alone() -> None:
    """Promotion is 100 % by the judge; without evidence the ramp waits, for ever unless the plan says otherwise."""
    ramp = at_last_step()
    move = ramps.advance(ramp, facts(waited_s=1e9))
    assert move is not None
    assert (move.ramp.state, move.effect) == (RampState.WAITING, None)
    move = ramps.advance(move.ramp, facts(verdict=verdict(Say.PROMOTE)))
    assert move is not None
    assert move.ramp.state is RampState.PROMOTED
    assert isinstance(move.effect, SetPercent)
    assert (move.effect.basis_points, move.effect.source) == (10_000, Source.JUDGE)


@pytest.mark.parametrize(("word", "state"), [("advance", RampState.PROMOTED), ("rollback", RampState.ROLLED_BACK)])
def test_the_plan_says_what_to_do_if_evidence_never_comes(word: str, state: RampState) -> None:
    """After `max_wait_s`, and not before."""
    ramp = at_last_step(on_inconclusive=word, max_wait_s=600)
    early, late = (ramps.advance(ramp, facts(waited_s=waited_s)) for waited_s in (599.0, 600.0))
    assert early is not None
    assert early.ramp.state is RampState.WAITING
    assert late is not None
    assert late.ramp.state is state
    assert late.effect is not None
    assert late.effect.source is Source.PLAN


def test_an_approval_is_a_persons() -> None:
    """No time and no evidence stand for it, and it is for one step alone."""
    steps = [{**STEPS[0], "approval": True}, {**STEPS[1], "approval": True}]
    ramp = started(steps=steps, on_inconclusive="advance", max_wait_s=1)
    move = ramps.advance(ramp, facts(waited_s=1e9))
    assert move is not None
    assert move.ramp.state is RampState.WAITING
    move = ramps.advance(ramps.approve(move.ramp, "ops", None).ramp, facts())
    assert move is not None
    assert move.ramp.step == 1
    assert not move.ramp.is_approved


def test_a_person_overrules_a_pause() -> None:
    """A resumed ramp is not paused by the same guardrail again, and begins to hold anew."""
    paused = ramps.advance(started(), facts(verdict=verdict(Say.PAUSE, "upstream")))
    assert paused is not None
    resumed = ramps.resume(paused.ramp, "ops", "the LM was down", "upstream")
    assert isinstance(resumed.effect, SetPercent)
    move = ramps.advance(resumed.ramp, facts(verdict=verdict(Say.PAUSE, "upstream"), held_s=1.0))
    assert move is None
    move = ramps.advance(resumed.ramp, facts(verdict=verdict(Say.PAUSE, "srm"), held_s=1.0))
    assert move is not None
    assert move.ramp.state is RampState.PAUSED


@pytest.mark.parametrize(
    ("basis_points", "source", "state"),
    [
        (2000, Source.API, RampState.PAUSED),
        (2000, Source.FILE, RampState.PAUSED),
        (0, Source.API, RampState.PAUSED),
        (0, Source.ROLLBACK, RampState.ROLLED_BACK),
        (0, Source.JUDGE, RampState.ROLLED_BACK),
        (100, Source.PLAN, RampState.RAMPING),
    ],
)
def test_a_change_from_elsewhere_stops_the_ramp(basis_points: int, source: Source, state: RampState) -> None:
    """A rollback ends it; any other change of the percentage pauses it; its own changes do neither."""
    ramp = started()
    move = ramps.percent_changed(ramp, Rollout(9, basis_points, 100, source, "ops", "why"))
    assert (ramp if move is None else move.ramp).state is state


@pytest.mark.parametrize(
    "ended",
    [
        ramps.abort(started(), "ops", "why"),
        ramps.advance(started(), facts(verdict=verdict(Say.ROLLBACK, "engine"))),
        ramps.advance(started(on_inconclusive="rollback", max_wait_s=1), facts(calls=0, waited_s=2.0)),
    ],
)
def test_a_replica_that_learns_of_the_rollback_first_ends_the_ramp_alike(ended: Move | None) -> None:
    """Either of the two may write the end, and it is the same."""
    assert ended is not None
    effect = ended.effect
    assert isinstance(effect, RollBack)
    found = replace(started(), plan=ended.ramp.plan)
    heard = ramps.percent_changed(found, Rollout(9, 0, 100, effect.source, ended.ramp.by, effect.reason))
    assert heard == Move(ended.ramp)


@pytest.mark.parametrize("verb", ["pause", "resume", "approve", "promote", "abort"])
@pytest.mark.parametrize("state", [RampState.IDLE, RampState.PROMOTED, RampState.ROLLED_BACK, RampState.ABORTED])
def test_nothing_can_be_asked_of_a_ramp_that_is_not_under_way(verb: str, state: RampState) -> None:
    """The answer says what state it is in."""
    arguments = ("ops", None, None) if verb == "resume" else ("ops", None)
    with pytest.raises(PlanConflict, match=str(state)):
        getattr(ramps, verb)(Ramp(state=state, plan=plan()), *arguments)


def test_a_start_needs_a_plan_and_no_other() -> None:
    """Two plans never run at once."""
    with pytest.raises(NoPlan):
        ramps.start(Ramp(), "ops", None)
    for ramp in (started(), ramps.pause(started(), "ops", None).ramp):
        with pytest.raises(PlanConflict):
            ramps.start(ramp, "ops", None)
        with pytest.raises(PlanConflict):
            ramps.set_plan(ramp, plan(), "ops")


def test_a_start_takes_nothing_from_v2_unasked() -> None:
    """Half of the traffic, or a promotion, is more than the first step's: the operator has to say that he knows."""
    for share in (101, 10_000):
        with pytest.raises(PlanConflict, match="lower"):
            ramps.start(Ramp(plan=plan()), "ops", None, share)
        assert ramps.start(Ramp(plan=plan()), "ops", None, share, lowers=True).ramp.step == 0
    assert ramps.start(Ramp(plan=plan()), "ops", None, 100).ramp.step == 0


def test_an_approval_names_its_step() -> None:
    """Whoever approves a step that the ramp has left approves nothing."""
    ramp = at_last_step()
    with pytest.raises(PlanConflict, match="cannot approve step 1: the plan is at step 2"):
        ramps.approve(ramp, "ops", None, 1)
    assert ramps.approve(ramp, "ops", None, 2).ramp.is_approved


def test_a_step_is_approved_once() -> None:
    """The second person learns that somebody was faster; the next step needs an approval of its own."""
    ramp = ramps.approve(started(), "alice", None).ramp
    with pytest.raises(PlanConflict, match="step 1 is approved already, by alice"):
        ramps.approve(ramp, "bob", "fine with me")
    move = ramps.advance(ramp, facts())
    assert move is not None
    assert (move.ramp.step, move.ramp.is_approved, move.ramp.approved_by) == (1, False, None)
    assert ramps.approve(move.ramp, "bob", None).ramp.approved_by == "bob"


def test_a_persons_promotion_is_a_persons() -> None:
    """In the history, too; that change of the flag leaves the ramp promoted, and another percentage ends it."""
    move = ramps.promote(started(), "alice", "seen enough")
    assert isinstance(move.effect, SetPercent)
    assert (move.effect.source, move.effect.basis_points) == (Source.API, 10_000)
    assert ramps.percent_changed(move.ramp, Rollout(9, 10_000, 100, Source.API, "alice", None)) is None
    ended = ramps.percent_changed(move.ramp, Rollout(10, 5000, 10_000, Source.API, "bob", None))
    assert ended is not None
    assert ended.ramp.state is RampState.IDLE


def test_a_pin_holds_a_ramp() -> None:
    """No time, no evidence and no word of the plan moves it upwards or stops it; evidence against V2 rolls it back."""
    for ramp in (started(), at_last_step(on_inconclusive="advance", max_wait_s=1)):
        for changed in ({}, {"verdict": verdict(Say.PROMOTE)}, {"verdict": verdict(Say.PAUSE, "srm")}):
            assert ramps.advance(ramp, facts(pin="v1", held_s=1e9, waited_s=1e9, **changed)) is None
        assert ramps.advance(ramp, facts(pin="v1", v2_serves=False)) is None
        move = ramps.advance(ramp, facts(pin="v1", verdict=verdict(Say.ROLLBACK, "engine")))
        assert move is not None
        assert move.ramp.state is RampState.ROLLED_BACK
    assert outlook(started(), facts(pin="v1"), 1.0).startswith("nothing: POOL_VERSION=v1 pins all calls, so that")
    assert "held where it is" in outlook(started(), facts(pin="v1"), 1.0)


def test_a_forgotten_plan_leaves_the_judges_rollback_to_be_seen() -> None:
    """The alert stays until somebody starts again; without a ramp there is nothing to see."""
    move = ramps.advance(started(), facts(verdict=verdict(Say.ROLLBACK, "engine")))
    assert move is not None
    after = ramps.set_plan(move.ramp, None, "ops").ramp
    assert (after.state, after.by, after.reason) == (RampState.ROLLED_BACK, "judge", move.ramp.reason)
    assert (after.plan, after.step) == (None, -1)
    assert ramps.set_plan(Ramp(plan=plan()), None, "ops").ramp == Ramp(by="ops")
    again = ramps.start(ramps.set_plan(after, plan(), "ops").ramp, "ops", None).ramp
    assert (again.state, again.reason) == (RampState.RAMPING, None)


def test_a_new_plan_leaves_the_end_of_the_last_ramp_to_be_seen() -> None:
    """A rollback by the judge is an alert until somebody starts again, whatever a mounted file says meanwhile."""
    move = ramps.advance(started(), facts(verdict=verdict(Say.ROLLBACK, "engine")))
    assert move is not None
    after = ramps.set_plan(move.ramp, plan(name="another"), "plan.yaml").ramp
    assert (after.state, after.by, after.reason) == (RampState.ROLLED_BACK, "judge", move.ramp.reason)
    assert after.plan is not None
    assert (after.plan.name, after.step) == ("another", -1)


def test_a_pause_keeps_the_reason_that_a_person_gave() -> None:
    """The words of the service stand beside it, and a change of the pools replaces none of them."""
    paused = ramps.percent_changed(started(), Rollout(9, 2000, 100, Source.API, "bob", "a sale is on"))
    assert paused is not None
    assert paused.ramp.reason == "bob changed the percentage to 20 (api): a sale is on"
    again = ramps.evidence_restarted(paused.ramp, "V2's code changed").ramp
    assert (again.state, again.by) == (RampState.PAUSED, "bob")
    assert again.reason == f"{paused.ramp.reason}; evidence starts again: V2's code changed"


@pytest.mark.parametrize("changed", [{"is_identified": False}, {"is_warm": False}])
def test_pools_that_are_not_ready_hold_the_ramp_for_ever(changed: dict[str, Any]) -> None:
    """They are no lack of evidence: the plan's word for that does not count."""
    ramp = started(on_inconclusive="advance", max_wait_s=1)
    move = ramps.advance(ramp, facts(waited_s=1e9, **changed))
    assert move is not None
    assert (move.ramp.state, move.effect) == (RampState.WAITING, None)


EVENTS = st.one_of(
    st.builds(
        lambda say, held_s, waited_s, calls, v1: (
            "advance",
            facts(
                verdict=verdict(say, "engine" if say in (Say.PAUSE, Say.ROLLBACK) else None),
                held_s=held_s,
                waited_s=waited_s,
                calls=calls,
                v1_serves=v1,
            ),
        ),
        st.sampled_from(Say),
        st.floats(0, 120),
        st.floats(0, 1200),
        st.integers(0, 200),
        st.booleans(),
    ),
    st.sampled_from([("pause",), ("resume",), ("approve",), ("promote",), ("abort",), ("start",)]),
    st.builds(
        lambda points, source: ("percent", Rollout(9, points, 0, source, "ops", None)),
        st.integers(0, 10_000),
        st.sampled_from(Source),
    ),
)


@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_the_share_follows_the_ramp(events: list[tuple[Any, ...]]) -> None:
    """V2's share rises by steps of the plan alone, a ramp that ended takes a start to move, and a rollback is 0 %."""
    ramp = started(on_inconclusive="advance", max_wait_s=600)
    share = 100
    for kind, *arguments in events:
        before = ramp
        try:
            move = _apply(ramp, kind, arguments)
        except (PlanConflict, NoPlan):
            continue
        if move is None:
            continue
        ramp = move.ramp
        if isinstance(move.effect, RollBack):
            share = 0
        elif isinstance(move.effect, SetPercent):
            assert move.effect.basis_points in (100, 5000, 10_000)
            share = move.effect.basis_points
        if kind == "advance" and not before.state.is_active:
            assert before.state is RampState.PAUSED, "a ramp that has ended does not move by itself"
            assert isinstance(move.effect, RollBack), "a paused ramp moves back alone"
        assert -1 <= ramp.step <= 1
        if ramp.state is RampState.PROMOTED and before.state is not RampState.PROMOTED:
            assert share == 10_000


def _apply(ramp: Ramp, kind: str, arguments: list[Any]) -> Move | None:
    if kind == "advance":
        return ramps.advance(ramp, arguments[0])
    if kind == "percent":
        return ramps.percent_changed(ramp, arguments[0])
    if kind == "resume":
        return ramps.resume(ramp, "ops", None, None)
    move: Move = getattr(ramps, kind)(ramp, "ops", None)
    return move


def test_a_ramp_remembers_that_it_went_on_without_evidence() -> None:
    """Also in the store; one that an older replica has written does not tell, and counts as one without."""
    begun = started()
    assert not begun.lacks_evidence
    promoted = ramps.promote(begun, "ops", None).ramp
    assert promoted.lacks_evidence
    for ramp in (begun, promoted):
        data = to_json(ramp)
        assert from_json(data) == ramp
        del data["lacks_evidence"]
        assert from_json(data).lacks_evidence
    assert not ramps.start(replace(promoted, state=RampState.IDLE), "ops", None).ramp.lacks_evidence
