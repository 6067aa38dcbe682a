"""Says in words what a ramp does next, and when."""

from routing.rollout.ramp import Facts, Ramp, RampState, missing_for_next

_END_PERCENT = {RampState.PROMOTED: 100.0, RampState.ROLLED_BACK: 0.0, RampState.ABORTED: 0.0}
"""V2's share at the end of a plan, by the way in which it ended."""


def outlook(ramp: Ramp, facts: Facts, percent: float) -> str:
    """One sentence for people: the next step and what it waits for. `percent` is V2's share in force."""
    if facts.pin is not None:
        return _pinned(ramp, facts.pin)
    if ramp.state is RampState.IDLE:
        return "nothing: no plan is under way" if ramp.plan is None else "nothing: the plan waits for its start"
    if ramp.state is RampState.PAUSED:
        guarded = "; evidence against V2 rolls back" if ramp.is_guarded and percent > 0 else ""
        return f"{_way_out_of_pause(ramp)}{guarded}"
    step = ramp.current
    if not ramp.state.is_active or step is None:
        ended = f"nothing: the plan has ended ({ramp.state})"
        is_of_the_plan = percent == _END_PERCENT.get(ramp.state, percent)
        return ended if is_of_the_plan else f"{ended}, and the {percent:g} % were set since, by a person"
    left_s = step.hold_s - facts.held_s
    if left_s > 0:
        return f"{_next_share(ramp)} in {left_s:.0f} s at the earliest"
    missing = missing_for_next(ramp, step, facts)
    return _next_share(ramp) if missing is None else f"{_next_share(ramp)}, but {missing}"


def _way_out_of_pause(ramp: Ramp) -> str:
    """Names what a person may do. After a guardrail's pause that is to look first: to resume would overrule it."""
    if ramp.paused_by is None:
        return "nothing until the plan is resumed, promoted or aborted"
    return f"nothing: look at the evidence of {ramp.paused_by}, then mend V2 or abort the plan"


def _pinned(ramp: Ramp, pin: str) -> str:
    held = "the plan is held where it is, until a start without it" if ramp.state.is_under_way else "no ramp moves"
    return f"nothing: POOL_VERSION={pin} pins all calls, so that {held}"


def _next_share(ramp: Ramp) -> str:
    assert ramp.plan is not None
    if ramp.step == ramp.plan.last_step:
        return "promotion: 100 %"
    return f"step {ramp.step + 2} of {len(ramp.plan.steps)}: {ramp.plan.steps[ramp.step + 1].percent:g} %"
