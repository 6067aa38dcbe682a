"""The end of a job as a CloudEvent. The result is not in it: whoever may see the result asks for it."""

from typing import Any, Final

from cloudevents.core.v1.event import CloudEvent

from routing.catalog.jobs import JobStatus
from routing.webhooks.outbox import Notification
from routing.webhooks.request import SOURCE

TYPE_PREFIX: Final = "poolshift.job."
_TOLD: Final = (
    "execution_id",
    "program_id",
    "session_id",
    "status",
    "pool_version",
    "created_at",
    "started_at",
    "ended_at",
)

_SAID: Final = {
    JobStatus.SUCCEEDED: "has succeeded",
    JobStatus.FAILED: "has failed",
    JobStatus.CANCELLED: "has been cancelled",
    JobStatus.INTERRUPTED: "has been interrupted",
}


def job_event(notification: Notification) -> CloudEvent:
    """Makes the event. A job ends once, so its id is the event's."""
    data = {name: notification.data[name] for name in _TOLD}
    execution_id, status = data["execution_id"], data["status"]
    attributes: dict[str, Any] = {
        "id": f"job-{execution_id}",
        "source": SOURCE,
        "type": TYPE_PREFIX + status,
        "subject": execution_id,
        "time": notification.at,
        "datacontenttype": "application/json",
        "summary": f"the job {execution_id} of {data['program_id']} {_SAID[status]}: GET /executions/{execution_id}",
    }
    return CloudEvent(attributes, data)
