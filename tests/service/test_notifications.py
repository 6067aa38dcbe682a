"""`ROLLOUT_WEBHOOK_URL` on a running service: told of each change, and hurt by no receiver."""

import base64
import json
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.service.test_plan_file import move
from tests.support.receiver import Behaviour, drips, floods, hangs, running_receiver, says
from tests.support.service import Service
from tests.support.waiting import wait_until

SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
PLAN = {"name": "release 7", "steps": [{"percent": 10, "hold_s": 3600}, {"percent": 50, "hold_s": 3600}]}


def deliveries(service: Service, outcome: str) -> float:
    """The service's own count."""
    return service.metric("poolshift_webhook_deliveries_total", outcome=outcome)


def test_each_change_of_state_is_told(start_service: StartService, tmp_path: Path) -> None:
    """In order, signed, counted; and the secret is nowhere that anyone can look, a worker included."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    with running_receiver() as receiver:
        service = start_service(
            ROLLOUT_WEBHOOK_URL=f"{receiver.url}?token=a-token", ROLLOUT_WEBHOOK_SECRET_FILE=file, LOG_LEVEL="debug"
        )
        assert service.client.put("/rollout/plan", json=PLAN).status_code == 200
        for what in ("start", "pause", "resume", "abort"):
            move(service, what)
        wait_until(lambda: deliveries(service, "delivered") >= 5, "all are delivered")
        told = [json.loads(delivery.body) for delivery in receiver.deliveries]
        assert [event["data"]["state"] for event in told[1:]] == ["ramping", "paused", "ramping", "aborted"]
        assert [event["data"]["by"] for event in told[1:]] == ["anonymous"] * 4
        assert all("webhook-signature" in delivery.headers for delivery in receiver.deliveries)
        assert {delivery.path for delivery in receiver.deliveries} == {"/hook?token=a-token"}
        program = service.create("environment", {}, outputs=[{"name": "environment", "type": "object"}])
        shown = [service.log(), service.client.get("/metrics").text, service.execute(program).text]
        for secret in (SECRET, "a-token", str(file)):
            assert not any(secret in text for text in shown)


def test_a_rollback_is_told_by_whom(start_service: StartService) -> None:
    """A person's rollback in the middle of a ramp ends the ramp, and the receiver hears of it."""
    with running_receiver() as receiver:
        service = start_service(ROLLOUT_WEBHOOK_URL=receiver.url)
        service.client.put("/rollout/plan", json=PLAN)
        move(service, "start")
        assert service.client.post("/rollout/rollback", json={"reason": "I saw it"}).status_code == 200

        def told() -> list[tuple[str, str]]:
            events = [json.loads(delivery.body) for delivery in receiver.deliveries]
            return [(event["type"], event["data"]["reason"]) for event in events]

        wait_until(lambda: ("poolshift.rollout.rolled_back", "I saw it") in told(), "it is told")


@pytest.mark.parametrize("behaviour", [hangs, drips, says(500), floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)])
def test_a_hostile_receiver_touches_nothing_else(start_service: StartService, behaviour: Behaviour) -> None:
    """Calls are answered, the ramp moves, the state is healthy, and the service ends at once when it is told to."""
    with running_receiver(then=behaviour) as receiver:
        service = start_service(ROLLOUT_WEBHOOK_URL=receiver.url, DRAIN_TIMEOUT_S=5)
        service.client.put("/rollout/plan", json=PLAN)
        move(service, "start")
        wait_until(lambda: len(receiver.deliveries) > 0, "the receiver is at it")
        program = service.create("echo", {"nonce": "string"})
        for call in range(50):
            assert service.execute(program, inputs={"nonce": str(call)}).status_code == 200
        move(service, "pause")
        assert service.client.get("/healthz").status_code == 200
        assert service.metric("poolshift_background_restarts_total", task="webhook") == 0
        assert service.stop(timeout_s=5) == 0


def test_what_was_not_delivered_before_a_restart_is_delivered_after_it(start_service: StartService) -> None:
    """The outbox is in the database."""
    with running_receiver(then=says(503)) as receiver:
        service = start_service(ROLLOUT_WEBHOOK_URL=receiver.url)
        service.client.put("/rollout/plan", json=PLAN)
        move(service, "start")
        wait_until(lambda: deliveries(service, "failed") >= 1, "an attempt has failed")
        service.stop()
        receiver.then = says(204)
        service.start()
        wait_until(lambda: deliveries(service, "delivered") >= 1, "it is delivered")
