"""The interface to the place where notifications wait for their delivery."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Notification:
    """News, of a ramp or of a job, that a receiver has not been told of yet."""

    key: int
    data: Mapping[str, Any]
    at: datetime
    """The time of the change."""
    attempts: int
    """Deliveries that have failed so far."""
    age_s: float
    """Seconds since the change, by the store's clock."""
    target: str | None = None
    """The receiver's host, if each notification has a receiver of its own."""


class Outbox(Protocol):
    """Keeps notifications of one kind. Every method raises StoreUnavailable if the store does not answer."""

    async def claim(self, *, for_s: float, busy: Collection[str] = ()) -> Notification | None:
        """Takes the oldest notification that is due, if any; no other replica gets it for `for_s` seconds.

        Notifications to a `busy` target stay. A replica that ends before it has reported the outcome leaves the
        notification to the others.
        """
        ...

    async def delivered(self, key: int) -> None:
        """Takes note that the receiver has accepted a notification."""
        ...

    async def failed(self, key: int, *, again_in_s: float | None) -> None:
        """Takes note of a failed delivery; None gives the notification up."""
        ...

    async def forget(self, older_than_s: float) -> None:
        """Forgets the notifications of changes so long ago that were delivered or given up."""
        ...
