"""A ramp as JSON, for the store. Unknown members are ignored, so that an older replica reads what a newer one wrote."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from routing.rollout.identity import Identity
from routing.rollout.plan import AfterPlan, Plan
from routing.rollout.ramp import Ramp, RampState
from routing.rollout.ramp_clock import StepTimes


def to_json(ramp: Ramp) -> dict[str, Any]:
    """A ramp as plain data."""
    return {
        "state": str(ramp.state),
        "plan": None if ramp.plan is None else _plan_json(ramp.plan),
        "step": ramp.step,
        "is_approved": ramp.is_approved,
        "approved_by": ramp.approved_by,
        "acknowledged": list(ramp.acknowledged),
        "run": ramp.run,
        "by": ramp.by,
        "reason": ramp.reason,
        "identity": ramp.identity.as_json(),
        "paused_at": ramp.paused_at,
        "lacks_evidence": ramp.lacks_evidence,
        "pinned": ramp.pinned,
        "is_alarmed": ramp.is_alarmed,
    }


def _plan_json(plan: Plan) -> dict[str, Any]:
    """A plan without the members that 0.1.0 does not know, as long as they have their defaults: it refuses them."""
    data = plan.model_dump(mode="json")
    if plan.guard:
        del data["guard"]
    if plan.after == AfterPlan():
        del data["after"]
    if plan.coverage is None:
        del data["coverage"]
    for one in data["guardrails"].values():
        if one["back_to"] is None:
            del one["back_to"]
    return data


def from_json(data: Mapping[str, Any]) -> Ramp:
    """The ramp that `to_json` made `data` of; a plan that this version cannot read leaves the ramp paused."""
    try:
        plan = None if data["plan"] is None else Plan.model_validate(data["plan"])
        state, reason = RampState(data["state"]), data["reason"]
    except (ValidationError, ValueError):
        plan, state, reason = None, RampState.PAUSED, "a newer version wrote this plan, and this one cannot read it"
    return Ramp(
        state=state,
        plan=plan,
        step=data["step"] if plan is not None else -1,
        is_approved=data["is_approved"],
        approved_by=data.get("approved_by"),
        acknowledged=tuple(data["acknowledged"]),
        run=data["run"],
        by=data["by"],
        reason=reason,
        identity=Identity.of(data.get("identity", {})),
        paused_at=data.get("paused_at"),
        lacks_evidence=data.get("lacks_evidence", True),  # an older replica does not tell
        pinned=data.get("pinned"),
        is_alarmed=data.get("is_alarmed", False),
    )


def times_to_json(times: StepTimes) -> dict[str, Any]:
    """The times of a step as plain data, which the store keeps beside the ramp."""
    since = None if times.since is None else times.since.isoformat()
    return {"held_s": round(times.held_s, 3), "waited_s": round(times.waited_s, 3), "since": since}


def times_from_json(data: Mapping[str, Any]) -> StepTimes | None:
    """The times beside the ramp in `data`; None if an older release has written it."""
    times = data.get("times")
    if times is None:
        return None
    since = None if times["since"] is None else datetime.fromisoformat(times["since"])
    return StepTimes(times["held_s"], times["waited_s"], since)
