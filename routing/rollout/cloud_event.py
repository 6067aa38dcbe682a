"""A change of the ramp as the request that tells a receiver: a CloudEvent, signed by Standard Webhooks."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cloudevents.core.bindings.http import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks.webhooks import Webhook

from routing.rollout.outbox import Notification

TYPE_PREFIX: Final = "poolshift.rollout."
SOURCE: Final = "poolshift"
MAX_TEXT: Final = 512
"""Characters of a name or a reason that a notification carries; the history has them whole."""
_JSON: Final = JSONFormat()


@dataclass(frozen=True, slots=True)
class Request:
    """The headers and the body of one delivery."""

    headers: dict[str, str]
    body: bytes


def request_of(notification: Notification, webhook: Webhook | None, now: datetime) -> Request:
    """The request for a notification. Each attempt has the same id, by which a receiver knows a repetition.

    Sources: CloudEvents 1.0.2, HTTP binding 3.2 (structured mode); Standard Webhooks 1.0.0 (signature over
    `id.timestamp.body`).
    """
    # The time tells services apart that have one receiver: each counts its revisions from 1.
    event_id = f"ramp-{notification.data['revision']}-{int(notification.at.timestamp() * 1000)}"
    message = to_structured(_event(notification, event_id), _JSON)
    headers = {
        **message.headers,
        "user-agent": "poolshift",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
    }
    if webhook is not None:
        headers["webhook-signature"] = webhook.sign(event_id, now.astimezone(UTC), message.body.decode())
    return Request(headers, message.body)


def _event(notification: Notification, event_id: str) -> CloudEvent:
    data = _told(notification.data)
    attributes: dict[str, Any] = {
        "id": event_id,
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
    text = f"{data['plan'] or 'no plan'} is {data['state'].replace('_', ' ')}{where}, by {data['by']}{why}"
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
        "run": stored["run"],
        "revision": stored["revision"],
    }


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
