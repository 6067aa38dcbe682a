"""Delivers notifications to `ROLLOUT_WEBHOOK_URL`, outside of every call's way.

HTTP runs on an event loop of its own, in a thread of its own: a receiver that hangs, floods or resolves slowly does not
hold up the service's loop.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

import httpx
from standardwebhooks.webhooks import Webhook

from common.log_once import LogOnce
from routing.errors import StoreUnavailable
from routing.rollout.cloud_event import Request, request_of
from routing.rollout.outbox import Notification, Outbox

TIMEOUT_S: Final = 10.0
"""Seconds that a receiver has for everything: its address, the connection, and the status of its response."""
LOOK_EVERY_S: Final = 1.0
CLAIM_S: Final = 3 * TIMEOUT_S
"""Seconds that a claim lasts: longer than the slowest receiver can make a delivery take."""
GIVE_UP_AFTER_S: Final = 86_400.0
FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 3_600.0
_GONE: Final = 410

Outcome = Literal["delivered", "failed", "given_up"]
OUTCOMES: Final = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Answer:
    """A receiver's answer: a status, or the reason why there is none."""

    status: int | None
    problem: str

    @property
    def is_accepted(self) -> bool:
        """Tells if the receiver has the notification. A redirect is no acceptance, and is not followed."""
        return self.status is not None and 200 <= self.status < 300


class WebhookNotifier:
    """Takes notifications from the outbox, sends them, and tries again with a backoff for a day."""

    def __init__(self, outbox: Outbox, url: str, secret: str | None, count: Callable[[Outcome], None]) -> None:
        """Calls `count` with the outcome of each attempt. Without a `secret` notifications are not signed."""
        self._outbox = outbox
        self._url = url
        self._webhook = None if secret is None else Webhook(secret)
        self._count = count
        self._log_once = LogOnce("notifications are not delivered; they are tried again")

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        loop = _Loop()
        try:
            while True:
                if not await self._deliver_next(loop):
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            loop.close()

    async def _deliver_next(self, loop: "_Loop") -> bool:
        """Delivers the oldest notification that is due; tells if there was one."""
        try:
            notification = await self._outbox.claim(for_s=CLAIM_S)
            if notification is not None:
                await self._deliver(notification, loop)
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
            return False
        return notification is not None

    async def _deliver(self, notification: Notification, loop: "_Loop") -> None:
        if notification.age_s >= GIVE_UP_AFTER_S:
            await self._give_up(notification)
            return
        request = request_of(notification, self._webhook, datetime.now(UTC))
        answer = await loop.run(post(self._url, request))
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


async def post(url: str, request: Request) -> Answer:
    """Sends one request and looks at the status alone: the body of the response is never read."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client,
            client.stream("POST", url, headers=request.headers, content=request.body) as response,
        ):
            return Answer(response.status_code, f"the receiver says {response.status_code}")
    except TimeoutError:
        return Answer(None, f"the receiver did not answer within {TIMEOUT_S:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Answer(None, f"the receiver cannot be reached: {type(error).__name__}")


class _Loop:
    """An event loop in a thread that ends with the process, whatever it waits for."""

    def __init__(self) -> None:
        # Not uvloop's, whose lookups of addresses share four threads with those of the service.
        self._loop = asyncio.SelectorEventLoop()
        threading.Thread(target=self._serve, name="webhook", daemon=True).start()

    async def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The result of `work`; a cancellation cancels it there too."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """Ends the thread, and does not wait for it."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self) -> None:
        self._loop.run_forever()
        if left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.close()
