"""Limits of a program: its deadline, its concurrency and its memory, on real workers."""

import concurrent.futures
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.service.test_batch import batch, begun, holds, items_of
from tests.service.test_errors import problem
from tests.service.test_faults import exits
from tests.service.test_rollback_moves import HOLD, hold
from tests.support.replicas import COUNT, alone
from tests.support.service import Service
from tests.support.waiting import wait_until

PROGRAM = {
    "program_type": "python",
    "entrypoint": "tests.support.programs:echo",
    "signature": {"inputs": [{"name": "nonce", "type": "string"}], "outputs": [{"name": "result", "type": "string"}]},
}
LIMITS = {"timeout_s": 2.5, "max_concurrency": 3, "memory_mb": 512, "metrics": False}


def test_limits_are_kept_and_shown(start_service: StartService, tmp_path: Path) -> None:
    """They come back as they were given, after a restart too, and a program without any shows that."""
    settings = {"DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/limits.db"}
    service = start_service(**settings)
    limited = service.client.post("/programs", json={**PROGRAM, **LIMITS}).json()
    assert {name: limited[name] for name in LIMITS} == LIMITS
    free = service.client.post("/programs", json=PROGRAM).json()
    assert [free[name] for name in LIMITS] == [None, None, None, False]
    service.stop()
    service = start_service(**settings)
    for program in (limited, free):
        assert service.client.get(f"/programs/{program['id']}").json() == program
        assert service.execute(program["id"], inputs={"nonce": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("timeout_s", 0),
        ("timeout_s", "1"),
        ("max_concurrency", 0),
        ("max_concurrency", 1.5),
        ("max_concurrency", 10_001),
        ("memory_mb", 0),
        ("memory_mb", True),
        ("metrics", "yes"),
    ],
)
def test_limits_that_make_no_sense(shared_service: Service, member: str, value: Any) -> None:
    """Each is refused with its name."""
    answer = shared_service.client.post("/programs", json={**PROGRAM, member: value})
    assert f"body.{member}" in problem(answer, 422, "invalid_request")["detail"]


def test_a_programs_deadline(shared_service: Service, version: str) -> None:
    """A call without a deadline has the program's, and no call may ask for a longer one."""
    program = shared_service.create("sleep", {"seconds": "number"}, "number", timeout_s=0.3)
    answer = shared_service.execute(program, inputs={"seconds": 30})
    assert problem(answer, 504, "execution_timeout")["pool_version"] == version
    answer = shared_service.execute(program, inputs={"seconds": 30}, timeout_s=30)
    assert "the program's own timeout_s" in problem(answer, 422, "invalid_request")["detail"]
    assert shared_service.execute(program, inputs={"seconds": 0}).status_code == 200
    (item,) = items_of(batch(shared_service, program, [{"seconds": 30}]))
    assert item["code"] == "execution_timeout"


@alone("a program's max_concurrency holds for each replica")
def test_a_programs_concurrency(start_service: StartService, version: str, tmp_path: Path) -> None:
    """One call of the program runs at a time, the others wait, and other programs run beside them on V2."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=3, V2_POOL_SIZE=3, CHECKOUT_TIMEOUT_S=20)
    program, echo = service.create("hold", HOLD, max_concurrency=1), service.create("echo", {"nonce": "string"})
    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(hold, service, program, tmp_path, f"item{number}") for number in range(4)]
        wait_until(lambda: service.pool(version)["queue_depth"] == 3, "the others wait")
        if version == "v2":
            for _ in range(10):
                assert service.execute(echo, inputs={"nonce": "a"}).status_code == 200
        wait_until(lambda: begun(tmp_path) >= 1, "one runs")
        assert (service.pool(version)["busy"], begun(tmp_path)) == (1, 1)
        batched = callers.submit(batch, service, program, holds(tmp_path, 3))
        wait_until(lambda: service.pool(version)["queue_depth"] == 4, "one item waits with them")
        (tmp_path / "go").touch()
        assert [call.result().status_code for call in calls] == [200] * 4
        assert len(items_of(batched.result())) == 3
    assert service.pool(version)["queue_depth"] == 0


def test_a_programs_memory(start_service: StartService, version: str) -> None:
    """A program that grows past its limit loses its worker, by a cause that names the limit; another may be larger."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1)
    program = service.create("hogs_memory", {"megabytes": "integer"}, memory_mb=150)
    body = problem(service.execute(program, inputs={"megabytes": 300}), 502, "worker_crashed")
    assert body["exit_cause"] == "killed: it grew past its program's memory limit of 150 MiB (memory_mb)"
    assert exits(service, version, "oom") == 1
    free = service.create("keeps_memory", {"megabytes": "integer"}, "integer")
    assert service.execute(free, inputs={"megabytes": 300}).status_code == 200
    beside = service.create("sleep", {"seconds": "number"}, "number", memory_mb=150)
    assert service.execute(beside, inputs={"seconds": 2.5}).status_code == 200
    assert exits(service, version, "oom") == 1


def test_a_programs_own_metrics(start_service: StartService, version: str, tmp_path: Path) -> None:
    """They exist from the creation on, count by outcome, end with the program, and are for so many programs alone."""
    service = start_service(POOL_VERSION=version, PROGRAM_METRICS_LIMIT=2)
    counter, histogram = "poolshift_program_requests_total", "poolshift_program_duration_seconds_count"
    service.create("echo", {"nonce": "string"}, id="own", metrics=True)
    assert service.samples(counter, program="own", pool_version="v2", outcome="ok") == [0.0] * COUNT
    service.execute("own", inputs={"nonce": "a"})
    service.execute("own", inputs={"nonce": 1})
    items_of(batch(service, "own", [{"nonce": "a"}] * 3))
    labels = {"program": "own", "pool_version": version}
    assert service.metric(counter, **labels, outcome="ok") == 4
    assert service.metric(counter, **labels, outcome="invalid_inputs") == 1
    assert service.metric(histogram, **labels) == 5
    changed = {**PROGRAM, "metrics": True, "instructions": None, "timeout_s": 5}
    assert service.client.put("/programs/own", json=changed).status_code == 200
    assert service.metric(counter, **labels, outcome="ok") == 4, "a change of the program keeps its series"
    service.create("hold", HOLD, id="held", session_id="a-session", metrics=True)
    refused = problem(service.client.post("/programs", json={**PROGRAM, "metrics": True}), 429, "quota_exceeded")
    assert (refused["quota"], "2 at most" in refused["detail"]) == ("PROGRAM_METRICS_LIMIT", True)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        inputs = {"directory": str(tmp_path), "name": "item"}
        call = callers.submit(service.execute, "held", inputs=inputs, session_id="a-session")
        wait_until(lambda: begun(tmp_path) == 1, "it runs")
        assert service.client.delete("/sessions/a-session").status_code == 204
        (tmp_path / "go").touch()
        assert call.result().status_code == 200
    wait_until(lambda: 'program="held"' not in scrape(service), "its series have ended on each replica")
    assert service.client.delete("/programs/own").status_code == 204
    wait_until(lambda: 'program="' not in scrape(service), "each replica knows that it is deleted")
    for number in range(2):
        service.create("echo", {"nonce": "string"}, id=f"new-{number}", metrics=True)


def scrape(service: Service) -> str:
    return service.client.get("/metrics").text
