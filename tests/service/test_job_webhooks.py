"""Webhooks of jobs: told of each end, by whatever it came, and no way into the network."""

import base64
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.conftest import StartService
from tests.service.test_async_executions import ASYNC, ECHO, HOLD, end_of, running, start
from tests.service.test_errors import problem
from tests.support.receiver import Receiver, hangs, running_receiver, says
from tests.support.service import Service
from tests.support.waiting import wait_until

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def local(receiver: Receiver) -> str:
    return receiver.url.replace("127.0.0.1", "localhost")


def told(receiver: Receiver) -> dict[str, dict[str, Any]]:
    """The events, by job."""
    return {event["subject"]: event for event in (json.loads(one.body) for one in receiver.deliveries)}


def until_told(receiver: Receiver, places: list[str]) -> list[dict[str, Any]]:
    """The events of these jobs."""
    ids = [place.removeprefix("/executions/") for place in places]
    wait_until(lambda: told(receiver).keys() >= set(ids), "every job's end is told")
    return [told(receiver)[one] for one in ids]


def test_every_end_is_told(start_service: StartService, tmp_path: Path) -> None:
    """A result, an error, a cancellation, the end of the session, a drain and a kill: each is told once, signed."""
    with running_receiver() as receiver:
        url = f"{local(receiver)}?token=t"
        service = start_service(
            POOLS="v2", V2_POOL_SIZE=4, WEBHOOK_ALLOW="localhost:*", WEBHOOK_SECRET=SECRET, DRAIN_TIMEOUT_S=0.1
        )
        echo, hold = service.create("echo", ECHO), service.create("hold", HOLD)

        def begin(name: str, **more: Any) -> str:
            place = start(service, hold, {"directory": str(tmp_path), "name": name}, webhook=url, **more)
            running(tmp_path, name)
            return place

        places = [start(service, echo, {"nonce": "a"}, webhook=url), start(service, echo, {"nonce": 1}, webhook=url)]
        quiet = start(service, echo, {"nonce": "quiet"})
        places.append(begin("cancelled"))
        service.client.delete(places[-1])
        places.append(begin("of-a-session", session_id="s"))
        service.client.delete("/sessions/s")
        events = until_told(receiver, places)
        assert [event["data"]["status"] for event in events] == ["succeeded", "failed", "cancelled", "cancelled"]
        ended = end_of(service, places[0])
        said = [event["summary"].partition(":")[0].partition(echo)[2] for event in events[:2]]
        assert said == [" has succeeded", " has failed"]
        assert "has been cancelled: GET /executions/" in events[2]["summary"]
        data = events[0]["data"]
        assert data == {name: ended[name] for name in data}
        assert "result" not in data

        places = [begin("drained")]
        service.stop()
        service.start()
        places.append(begin("killed"))
        service.stop(signal.SIGKILL)
        service.start()
        events = until_told(receiver, places)
        assert [event["type"] for event in events] == ["poolshift.job.interrupted"] * 2
        for delivery in receiver.deliveries:
            assert delivery.path == "/hook?token=t"
            Webhook(SECRET).verify(delivery.body, delivery.headers)
        assert quiet.removeprefix("/executions/") not in told(receiver)
        assert len(receiver.deliveries) == 6
        assert "token" not in service.log()


def test_a_receiver_that_hangs_holds_up_no_other(start_service: StartService) -> None:
    """Nor does a job wait for it. A failure is tried again, and a redirect is not followed."""
    with running_receiver(then=hangs) as dead, running_receiver(says(307, "location: /other"), says(500)) as fine:
        service = start_service(POOLS="v2", WEBHOOK_ALLOW="localhost:*")
        echo = service.create("echo", ECHO)
        for _ in range(12):
            start(service, echo, {"nonce": "a"}, webhook=local(dead))
        wait_until(lambda: len(dead.deliveries) >= 2, "the dead one has as many as one receiver may have")
        place = start(service, echo, {"nonce": "a"}, webhook=local(fine))
        wait_until(lambda: len(fine.deliveries) == 3, "the other is told")
        assert {one.path for one in fine.deliveries} == {"/hook"}
        assert len({one.headers["webhook-id"] for one in fine.deliveries}) == 1
        assert end_of(service, place)["status"] == "succeeded"
        assert len(dead.deliveries) < 12
        wait_until(lambda: _deliveries(service, "delivered") == 1, "it is counted")
        assert _deliveries(service, "failed") == 2
        assert service.stop(timeout_s=10) == 0


def _deliveries(service: Service, outcome: str) -> float:
    return service.metric("poolshift_job_webhook_deliveries_total", outcome=outcome)


@pytest.mark.parametrize(
    ("allow", "url", "word"),
    [
        ("", "https://hooks.example.com/", "WEBHOOK_ALLOW names no host"),
        ("hooks.example.com", "https://example.com/", "does not name the host"),
        ("hooks.example.com", "http://hooks.example.com/", "https:// is needed"),
        ("hooks.example.com", "https://hooks.example.com:22/", "port 22"),
    ],
)
def test_what_is_not_allowed_is_refused_at_once(start_service: StartService, allow: str, url: str, word: str) -> None:
    """With the reason, before the job runs; and a call has no webhook."""
    service = start_service(POOLS="v2", WEBHOOK_ALLOW=allow)
    echo = service.create("echo", ECHO)
    refused = service.execute(echo, ASYNC, inputs={"nonce": "a"}, webhook=url)
    assert word in problem(refused, 422, "invalid_request")["detail"]
    refused = service.execute(echo, inputs={"nonce": "a"}, webhook=url)
    assert "respond-async" in problem(refused, 422, "invalid_request")["detail"]
    assert service.client.get("/executions").json()["items"] == []
