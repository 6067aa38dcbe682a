"""A rollback loses nothing that was accepted, and nothing starts on V2 after its answer: on real pools."""

import concurrent.futures
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.service.test_async_executions import running
from tests.support.service import Service
from tests.support.waiting import wait_until

HOLD = {"directory": "string", "name": "string"}
ON_V1 = {"X-Pool-Version": "v1"}


def hold(service: Service, program: str, directory: Path, name: str, **headers: str) -> httpx.Response:
    """Runs until the file `go` is there."""
    return service.execute(program, headers, inputs={"directory": str(directory), "name": name})


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_full_queue_takes_what_was_accepted(start_service: StartService, tmp_path: Path, limit: int) -> None:
    """V1's queue is full at a rollback: what waits for V2, and what is replayed, is served all the same."""
    service = start_service(
        CANARY_PERCENT=100, V1_POOL_SIZE=1, V2_POOL_SIZE=1, QUEUE_LIMIT=limit, CHECKOUT_TIMEOUT_S=20
    )
    program = service.create("hold", HOLD, idempotent=True)
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        calls = [callers.submit(hold, service, program, tmp_path, "v1", **ON_V1)]
        running(tmp_path, "v1")
        calls += [callers.submit(hold, service, program, tmp_path, "v1", **ON_V1) for _ in range(limit)]
        calls.append(callers.submit(hold, service, program, tmp_path, "v2"))
        running(tmp_path, "v2")
        calls += [callers.submit(hold, service, program, tmp_path, "v2") for _ in range(limit)]
        for version in ("v1", "v2"):
            depth = f"{version}'s queue is full"
            wait_until(lambda version=version: service.pool(version)["queue_depth"] == limit, depth)  # type: ignore[misc]
        assert hold(service, program, tmp_path, "new").json()["code"] == "pool_overloaded"
        rolled_back = service.client.post("/rollout/rollback", json={"in_flight": "replay"})
        assert rolled_back.status_code == 200
        assert service.pool("v1")["queue_depth"] == 2 * limit + 1
        assert hold(service, program, tmp_path, "new", **ON_V1).json()["code"] == "pool_overloaded"
        (tmp_path / "go").touch()
        answers = [call.result() for call in calls]
    assert [(answer.status_code, answer.headers["x-pool-version"]) for answer in answers] == [(200, "v1")] * len(calls)


def test_the_retry_after_a_rollback_is_on_v1(start_service: StartService, tmp_path: Path) -> None:
    """The V2 worker of an idempotent call dies after the answer; no dispatch to V2 follows, and the metric agrees."""
    service = start_service(CANARY_PERCENT=100, V1_POOL_SIZE=1, V2_POOL_SIZE=2)
    program = service.create("hold", HOLD, idempotent=True)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        call = callers.submit(hold, service, program, tmp_path, "a")
        pid = running(tmp_path, "a")
        assert service.client.post("/rollout/rollback").status_code == 200
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: service.pool("v1")["busy"] == 1, "V1 runs the retry")
        (tmp_path / "go").touch()
        answer = call.result()
    assert (answer.status_code, answer.headers["x-pool-version"]) == (200, "v1")
    assert service.pool("v2")["totals"]["dispatched"] == 1
    assert service.metric("poolshift_rollback_last_dispatch_seconds") == 0


def test_a_streams_headers_name_the_version_that_runs_it(start_service: StartService, tmp_path: Path) -> None:
    """A stream that waited for V2 at the rollback names V1."""
    service = start_service(CANARY_PERCENT=100, V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=20)
    program = service.create("hold", HOLD)
    body: dict[str, Any] = {"inputs": {"directory": str(tmp_path), "name": "stream"}}
    streaming = {"Accept": "text/event-stream"}

    def stream() -> str:
        with service.client.stream("POST", f"/programs/{program}/execute", json=body, headers=streaming) as answer:
            answer.read()
            return str(answer.headers["x-pool-version"])

    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        call = callers.submit(hold, service, program, tmp_path, "a")
        running(tmp_path, "a")
        streamed = callers.submit(stream)
        wait_until(lambda: service.pool("v2")["queue_depth"] == 1, "the stream waits for V2")
        service.client.post("/rollout/rollback")
        running(tmp_path, "stream")
        (tmp_path / "go").touch()
        assert streamed.result() == "v1"
        assert call.result().headers["x-pool-version"] == "v2"
