"""Makes the notifiers: of the ramp's changes, and of the ends of jobs that name a webhook."""

from typing import Final

from pydantic import SecretStr

from config.settings import Settings
from routing.telemetry.recorder import Recorder
from routing.webhooks.job_event import job_event
from routing.webhooks.notifier import Channel, WebhookNotifier
from routing.webhooks.outbox import Outbox
from routing.webhooks.ramp_event import ramp_event

_JOBS_AT_ONCE: Final = 8
_JOBS_AT_ONCE_TO_ONE: Final = 2
_JOBS_KEPT_FOR_S: Final = 3_600.0


def ramp_notifier(settings: Settings, url: SecretStr, outbox: Outbox, recorder: Recorder) -> WebhookNotifier:
    """Makes the notifier of the ramp, whose one receiver gets one change after another."""
    secret = _plain(settings.rollout_signing_secret)
    channel = Channel(event=ramp_event, url=lambda _: url.get_secret_value(), secret=secret)
    return WebhookNotifier(outbox, channel, recorder.webhook_delivery)


def job_notifier(settings: Settings, outbox: Outbox, recorder: Recorder) -> WebhookNotifier:
    """Makes the notifier of jobs. Their receivers are chosen by clients, so none may hold up the others."""
    channel = Channel(
        event=job_event,
        url=lambda notification: str(notification.data["url"]),
        secret=_plain(settings.job_signing_secret),
        allow=settings.webhook_allow_list,
        at_once=_JOBS_AT_ONCE,
        at_once_to_one=_JOBS_AT_ONCE_TO_ONE,
        kept_for_s=_JOBS_KEPT_FOR_S,
    )
    return WebhookNotifier(outbox, channel, recorder.job_webhook_delivery)


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
