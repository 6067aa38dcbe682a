"""A change of the ramp as a CloudEvent."""

from typing import Any, Final

from cloudevents.core.v1.event import CloudEvent

from routing.rollout.ramp import ADVANCED_WITHOUT_EVIDENCE, RampState
from routing.webhooks.outbox import Notification
from routing.webhooks.request import SOURCE

TYPE_PREFIX: Final = "poolshift.rollout."
MAX_TEXT: Final = 512
"""Characters of a name or a reason that a notification carries; the history has them whole."""


def ramp_event(notification: Notification) -> CloudEvent:
    """Makes the event of a change."""
    data = _told(notification.data)
    attributes: dict[str, Any] = {
        # The time tells services apart that have one receiver: each counts its revisions from 1.
        "id": f"ramp-{notification.data['revision']}-{int(notification.at.timestamp() * 1000)}",
        "source": SOURCE,
        "type": TYPE_PREFIX + data["state"],
        "subject": data["plan"] or "no plan",
        "time": notification.at,
        "datacontenttype": "application/json",
        "summary": _summary(data),
    }
    return CloudEvent(attributes, data)


def _summary(data: dict[str, Any]) -> str:
    """One sentence, at the top level for receivers that know nothing of CloudEvents."""
    where = f" at step {data['step']} of {data['steps']}" if data["step"] else ""
    why = f": {data['reason']}" if data["reason"] else ""
    warning = f" ({data['warning']})" if data["warning"] else ""
    text = f"{data['plan'] or 'no plan'} is {data['state'].replace('_', ' ')}{warning}{where}, by {data['by']}{why}"
    return text[:MAX_TEXT]


def _told(stored: Any) -> dict[str, Any]:
    """The part of a stored ramp that people and programs want to be told."""
    plan = stored["plan"]
    steps = plan["steps"] if plan is not None else []
    step = stored["step"]
    return {
        "state": stored["state"],
        "plan": plan["name"] if plan is not None else None,
        "step": step + 1,
        "steps": len(steps),
        "step_percent": steps[step]["percent"] if 0 <= step < len(steps) else None,
        "by": _short(stored["by"]),
        "reason": _short(stored["reason"]),
        "warning": ADVANCED_WITHOUT_EVIDENCE if _lacks_evidence(stored) else None,
        "run": stored["run"],
        "revision": stored["revision"],
    }


def _lacks_evidence(stored: Any) -> bool:
    return bool(stored["state"] == RampState.PROMOTED and stored.get("lacks_evidence", True))


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
