"""Keys, webhooks and streams of jobs on two servers with one PostgreSQL."""

import concurrent.futures
from pathlib import Path

from tests.conftest import StartService
from tests.replicas.conftest import Postgres
from tests.service.test_async_executions import ASYNC, ECHO, HOLD, end_of, running, start
from tests.service.test_errors import problem
from tests.service.test_idempotency import held, keyed, same
from tests.service.test_job_streams import events, stream
from tests.service.test_job_webhooks import local, until_told
from tests.support.receiver import running_receiver


def test_keys_webhooks_and_streams(start_service: StartService, postgres: Postgres, tmp_path: Path) -> None:
    """A key counts on every replica. Another replica streams a job's end, and tells of it if the first one stops."""
    settings = {"DATABASE_URL": postgres.url, "POOLS": "v2", "WEBHOOK_ALLOW": "localhost:*", "DRAIN_TIMEOUT_S": 0.1}
    one, other = (start_service(**settings) for _ in range(2))
    slow, echo = one.create("slow_echo", {"nonce": "string", "seconds": "number"}), one.create("echo", ECHO)
    hold = one.create("hold", HOLD)
    inputs = {"nonce": "a", "seconds": 0.3}
    for more in ({}, ASYNC):
        headers = keyed(**more)
        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            sent = [
                callers.submit((one, other)[number % 2].execute, slow, headers, inputs=inputs) for number in range(8)
            ]
            answers = [each.result() for each in sent]
        assert {answer.status_code for answer in answers} <= {200, 202, 409}
        first = next(answer for answer in answers if "idempotent-replayed" not in answer.headers and answer.is_success)
        for replica in (one, other):
            same(first, replica.execute(slow, headers, inputs=inputs))
            problem(replica.execute(echo, headers, inputs={"nonce": "a"}), 409, "idempotency_conflict")
    jobs = one.client.get("/executions").json()["items"]
    assert sum(job["program_id"] == slow for job in jobs) == 1

    with running_receiver() as receiver:
        place = start(one, hold, held(tmp_path, "a"), webhook=local(receiver))
        running(tmp_path, "a")
        with other.client.stream("GET", place, headers={"Accept": "text/event-stream"}) as answer:
            told = events(answer)
            assert next(told).name == "gap"
            assert next(told).name == "status"
            (tmp_path / "go").touch()
            last = list(told)[-1]
        assert (last.id, last.name, last.data["outputs"]) == ("end", "result", {"result": "a"})
        assert stream(other, place)[-1] == stream(one, place)[-1] == last
        (tmp_path / "go").unlink()
        lost = start(one, hold, held(tmp_path, "b"), webhook=local(receiver))
        running(tmp_path, "b")
        one.stop()
        assert [event["data"]["status"] for event in until_told(receiver, [place, lost])] == [
            "succeeded",
            "interrupted",
        ]
        assert end_of(other, lost)["status"] == "interrupted"
        assert len(receiver.deliveries) == 2
