"""Delivers the notifications of the outbox, outside of every call's way: retries with a backoff for a day."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from cloudevents.core.v1.event import CloudEvent
from standardwebhooks.webhooks import Webhook

from common.log_once import LogOnce
from common.tasks import TaskOwner
from config.webhook_allow import WebhookAllow
from routing.errors import StoreUnavailable
from routing.webhooks import delivery
from routing.webhooks.delivery import DeliveryLoop
from routing.webhooks.outbox import Notification, Outbox
from routing.webhooks.request import request_of

LOOK_EVERY_S: Final = 1.0
CLAIM_S: Final = 3 * delivery.TIMEOUT_S
"""Seconds that a claim lasts: longer than the slowest receiver can make a delivery take."""
GIVE_UP_AFTER_S: Final = 86_400.0
FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 3_600.0
_FORGET_EVERY_S: Final = 600.0
_GONE: Final = 410

Outcome = Literal["delivered", "failed", "given_up"]
OUTCOMES: Final = get_args(Outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A kind of notifications: the event of each, and the way to its receiver.

    With `allow`, the notification names its own receiver. `at_once` deliveries run beside each other, and
    `at_once_to_one` of them to one receiver: a receiver that hangs does not hold up the others.
    """

    event: Callable[[Notification], CloudEvent]
    url: Callable[[Notification], str]
    secret: str | None
    allow: WebhookAllow | None = None
    at_once: int = 1
    at_once_to_one: int = 1
    kept_for_s: float | None = None
    """Time after which what was delivered or given up is forgotten."""


class WebhookNotifier:
    """Takes notifications from the outbox, sends them, and tries again with a backoff for a day."""

    def __init__(self, outbox: Outbox, channel: Channel, count: Callable[[Outcome], None]) -> None:
        """Calls `count` with the outcome of each attempt. Without a secret notifications are not signed."""
        self._outbox = outbox
        self._channel = channel
        self._webhook = None if channel.secret is None else Webhook(channel.secret)
        self._count = count
        self._places = asyncio.Semaphore(channel.at_once)
        self._targets: Counter[str] = Counter()
        self._next_forgetting = 0.0
        self._log_once = LogOnce("notifications are not delivered; they are tried again")

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        loop, tasks = DeliveryLoop(), TaskOwner("webhook")
        try:
            while True:
                await self._places.acquire()
                notification = await self._next()
                if notification is not None:
                    self._targets[notification.target or ""] += 1
                    tasks.start(self._take_out(notification, loop))
                    continue
                self._places.release()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self._places = asyncio.Semaphore(self._channel.at_once)
            await tasks.aclose()
            self._targets.clear()
            loop.close()

    async def _next(self) -> Notification | None:
        """Claims the oldest notification that is due and whose receiver has few others under way."""
        busy = [target for target, count in self._targets.items() if count >= self._channel.at_once_to_one]
        try:
            await self._forget()
            return await self._outbox.claim(for_s=CLAIM_S, busy=busy)
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
            return None

    async def _forget(self) -> None:
        kept_for_s = self._channel.kept_for_s
        if kept_for_s is not None and time.monotonic() >= self._next_forgetting:
            await self._outbox.forget(kept_for_s)
            self._next_forgetting = time.monotonic() + _FORGET_EVERY_S

    async def _take_out(self, notification: Notification, loop: DeliveryLoop) -> None:
        try:
            await self._deliver(notification, loop)
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
        finally:
            target = notification.target or ""
            self._targets[target] -= 1
            if not self._targets[target]:
                del self._targets[target]
            self._places.release()

    async def _deliver(self, notification: Notification, loop: DeliveryLoop) -> None:
        if notification.age_s >= GIVE_UP_AFTER_S:
            await self._give_up(notification)
            return
        channel = self._channel
        request = request_of(channel.event(notification), self._webhook, datetime.now(UTC))
        answer = await loop.run(delivery.post(channel.url(notification), request, channel.allow))
        if answer.is_accepted:
            await self._outbox.delivered(notification.key)
            self._count("delivered")
            self._log_once.clear()
            return
        self._log_once.warn(answer.problem)
        if answer.status == _GONE:
            await self._give_up(notification)
            return
        await self._outbox.failed(notification.key, again_in_s=retry_in_s(notification.attempts))
        self._count("failed")

    async def _give_up(self, notification: Notification) -> None:
        await self._outbox.failed(notification.key, again_in_s=None)
        self._count("given_up")


def retry_in_s(attempts: int) -> float:
    """Seconds until the next attempt: 1, 2, 4, … up to an hour, less up to a fifth, so that replicas spread out."""
    wait_s: float = min(FIRST_RETRY_S * 2.0 ** min(attempts, 32), LAST_RETRY_S)
    return wait_s * random.uniform(0.8, 1.0)  # noqa: S311
