"""One delivery: a CloudEvent as a request that is signed by Standard Webhooks.

Sources: CloudEvents 1.0.2, HTTP binding 3.2 (structured mode); Standard Webhooks 1.0.0 (signature over
`id.timestamp.body`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cloudevents.core.bindings.http import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks.webhooks import Webhook

SOURCE: Final = "poolshift"
_JSON: Final = JSONFormat()


@dataclass(frozen=True, slots=True)
class Request:
    """The headers and the body of one delivery."""

    headers: dict[str, str]
    body: bytes


def request_of(event: CloudEvent, webhook: Webhook | None, now: datetime) -> Request:
    """Makes the request. Each attempt has the event's id, by which a receiver knows a repetition."""
    event_id = event.get_id()
    message = to_structured(event, _JSON)
    headers = {
        **message.headers,
        "user-agent": "poolshift",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
    }
    if webhook is not None:
        headers["webhook-signature"] = webhook.sign(event_id, now.astimezone(UTC), message.body.decode())
    return Request(headers, message.body)
