"""The main job, end to end: programs run on V1 and V2, split by a canary, rolled back by one flag."""

import concurrent.futures
import itertools
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.support.replicas import COUNT, alone
from tests.support.service import Service, is_alive
from tests.support.waiting import wait_until

ECHO = {"nonce": "string"}


def test_a_program_is_created_run_shown_and_deleted(shared_service: Service, version: str) -> None:
    """A program does its work, with what the contract says in the answer and in its headers."""
    program = shared_service.create("examples.text:keywords", {"text": "string"}, "array", id=f"keywords-{version}")
    answer = shared_service.execute(program, inputs={"text": "pool pool worker"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["outputs"] == {"result": ["pool", "worker"]}
    assert body["program_id"] == program
    assert body["pool_version"] == answer.headers["x-pool-version"] == version
    assert body["execution_id"] == answer.headers["x-execution-id"]
    assert answer.headers["server-timing"].startswith("queue;dur=")
    assert 0 < body["duration_ms"] < 30_000

    shown = shared_service.client.get(f"/programs/{program}").json()
    assert shown["execution_count"] == 1
    assert shown["last_executed_at"] is not None
    assert shared_service.client.delete(f"/programs/{program}").status_code == 204
    assert shared_service.client.get(f"/programs/{program}").json()["code"] == "program_not_found"
    assert shared_service.execute(program).json()["code"] == "program_not_found"


def test_programs_are_listed_page_by_page(start_service: StartService) -> None:
    """Every program is on exactly one page, in the order of creation."""
    service = start_service()
    created = [service.create("echo", ECHO) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = service.client.get("/programs", params={"limit": 2, "cursor": cursor}).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == created


def test_the_readmes_path_from_create_to_rollback(start_service: StartService) -> None:
    """Create, execute, see it in /metrics, ramp to 50, both versions serve, roll back: nothing on V2 from then on."""
    service = start_service()
    program = service.create("echo", ECHO)
    assert service.execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] == "v1"
    assert service.metric("poolshift_requests_total", pool_version="v1", operation="execute", outcome="ok") == 1

    changed = service.client.patch("/rollout", json={"canary_percent": 50, "reason": "a try"})
    assert changed.status_code == 200
    assert changed.json()["canary_percent"] == 50
    served = {service.execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] for _ in range(64)}
    assert served == {"v1", "v2"}

    assert service.client.post("/rollout/rollback", json={"reason": "enough"}).json()["canary_percent"] == 0
    dispatched = service.pool("v2")["totals"]["dispatched"]
    served = {service.execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] for _ in range(64)}
    assert served == {"v1"}
    assert service.pool("v2")["totals"]["dispatched"] == dispatched

    history = service.client.get("/rollout/history").json()["items"]
    assert [(item["from_percent"], item["to_percent"], item["source"]) for item in history] == [
        (50, 0, "rollback"),
        (0, 50, "api"),
        (None, 0, "default"),
    ]


def test_ten_thousand_calls_at_ten_percent(start_service: StartService) -> None:
    """The split is as it is set: at 10 % a tenth is on V2, at 0 none, at 100 all, and the metrics say the same."""
    service = start_service(CANARY_PERCENT=10)
    program = service.create("echo", ECHO)

    def served_by_v2(calls: int) -> int:
        before = service.metric("poolshift_requests_total", pool_version="v2", outcome="ok")
        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            answers = callers.map(lambda number: service.execute(program, inputs={"nonce": str(number)}), range(calls))
            versions = [answer.headers["x-pool-version"] for answer in answers if answer.status_code == 200]
        assert len(versions) == calls
        counted = service.metric("poolshift_requests_total", pool_version="v2", outcome="ok") - before
        assert versions.count("v2") == counted
        return versions.count("v2")

    assert 900 <= served_by_v2(10_000) <= 1_100
    service.client.patch("/rollout", json={"canary_percent": 0})
    assert served_by_v2(200) == 0
    service.client.patch("/rollout", json={"canary_percent": 100})
    assert served_by_v2(200) == 200


def test_a_session_never_goes_back_while_the_percentage_rises(start_service: StartService) -> None:
    """On a ramp each session goes from V1 to V2 once, at most, and stays; in a step it is on one version only."""
    service = start_service()
    program = service.create("echo", ECHO)
    sessions = [f"session-{number}" for number in range(40)]
    was_on_v2: set[str] = set()
    for percent in (0, 0.01, 5, 25, 50, 75, 100):
        assert service.client.patch("/rollout", json={"canary_percent": percent}).status_code == 200
        on_v2 = {
            session
            for session in sessions
            if {
                service.execute(program, inputs={"nonce": "a"}, session_id=session).headers["x-pool-version"]
                for _ in range(2)
            }
            == {"v2"}
        }
        assert was_on_v2 <= on_v2
        was_on_v2 = on_v2
    assert was_on_v2 == set(sessions)


def test_the_canary_key_decides_where_there_is_no_session(start_service: StartService) -> None:
    """Calls with one X-Canary-Key stay together."""
    service = start_service(CANARY_PERCENT=50)
    program = service.create("echo", ECHO)
    for key in ("customer-1", "customer-2", "customer-3", "customer-4"):
        answers = [service.execute(program, {"X-Canary-Key": key}, inputs={"nonce": "a"}) for _ in range(8)]
        assert len({answer.headers["x-pool-version"] for answer in answers}) == 1


def test_a_forced_version_is_counted_apart(start_service: StartService) -> None:
    """X-Pool-Version beats the split, POOL_VERSION beats both, and each is counted by its reason."""
    service = start_service()
    program = service.create("echo", ECHO)
    assert service.execute(program, {"X-Pool-Version": "v2"}, inputs={"nonce": "a"}).headers["x-pool-version"] == "v2"
    assert service.metric("poolshift_routing_decisions_total", pool_version="v2", reason="forced") == 1
    assert service.metric("poolshift_routing_decisions_total", pool_version="v2", reason="split") == 0
    refused = service.execute(program, {"X-Pool-Version": "v3"}, inputs={"nonce": "a"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")

    pinned = start_service(POOL_VERSION="v1", CANARY_PERCENT=100)
    program = pinned.create("echo", ECHO)
    assert pinned.execute(program, {"X-Pool-Version": "v2"}, inputs={"nonce": "a"}).headers["x-pool-version"] == "v1"
    assert pinned.metric("poolshift_routing_decisions_total", pool_version="v1", reason="pinned") == 1
    assert pinned.client.get("/rollout").json()["pool_version"] == "v1"


def test_v2_runs_as_many_at_once_as_it_has_workers(start_service: StartService, tmp_path: Path) -> None:
    """Four executions that each wait for the other three can only end if all four run at once."""
    service = start_service(POOL_VERSION="v2", V2_POOL_SIZE=4 * COUNT)  # whichever replica each comes to
    meet = service.create("meet", {"directory": "string", "name": "string", "count": "integer"}, "integer")
    place = tmp_path / "meeting"
    place.mkdir()

    def attend(number: int) -> int:
        inputs = {"directory": str(place), "name": str(number), "count": 4}
        return service.execute(meet, inputs=inputs).status_code

    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        assert list(callers.map(attend, range(4))) == [200] * 4


@alone("each replica has a coordinator of V1's")
def test_v1_runs_one_at_a_time_however_many_workers_it_has(start_service: StartService) -> None:
    """No two executions overlap."""
    service = start_service(POOL_VERSION="v1", V1_POOL_SIZE=4)
    outputs = [{"name": "began", "type": "number"}, {"name": "ended", "type": "number"}]
    program = service.create("interval", {"seconds": "number"}, outputs=outputs)
    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: service.execute(program, inputs={"seconds": 0.02}), range(8)))
    times = sorted((answer.json()["outputs"]["began"], answer.json()["outputs"]["ended"]) for answer in answers)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))


def test_a_killed_server_leaves_no_worker_and_forgets_nothing(start_service: StartService) -> None:
    """After SIGKILL the workers are gone, and programs, rollout and history are there after a restart."""
    service = start_service()
    program = service.create("echo", ECHO, session_id="mine")
    service.client.patch("/rollout", json={"canary_percent": 33.33})
    history = service.client.get("/rollout/history").json()
    pids = service.worker_pids()
    assert len(pids) == 4
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "every worker is gone", deadline_s=1)

    service.start()
    assert service.client.get("/rollout/history").json() == history
    answer = service.execute(program, inputs={"nonce": "still here"}, session_id="mine")
    assert answer.json()["outputs"] == {"result": "still here"}
    assert service.execute(program, inputs={"nonce": "a"}).json()["code"] == "program_not_found"


def test_the_environment_is_a_change_only_where_it_differs(start_service: StartService) -> None:
    """A restart brings back the last rollout; CANARY_PERCENT counts only where it says something new."""
    service = start_service(CANARY_PERCENT=10)
    service.client.patch("/rollout", json={"canary_percent": 25})
    assert service.stop() == 0
    service.start()
    assert service.client.get("/rollout").json()["canary_percent"] == 25
    assert service.stop() == 0
    service._settings["CANARY_PERCENT"] = "40"
    service.start()
    rollout = service.client.get("/rollout").json()
    assert (rollout["canary_percent"], rollout["source"]) == (40, "environment")


def test_a_stale_change_is_refused(start_service: StartService) -> None:
    """If-Match with an old revision gets 412 and changes nothing."""
    service = start_service()
    etag = service.client.get("/rollout").headers["etag"]
    changed = service.client.patch("/rollout", json={"canary_percent": 1}, headers={"If-Match": etag})
    assert changed.status_code == 200
    stale = service.client.patch("/rollout", json={"canary_percent": 2}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_revision")
    assert service.client.get("/rollout").json()["canary_percent"] == 1
    fresh = {"If-Match": changed.headers["etag"]}
    assert service.client.patch("/rollout", json={"canary_percent": 2}, headers=fresh).status_code == 200


def test_a_reason_alone_is_remembered(start_service: StartService) -> None:
    """As a revision of the same percentage, so that no note is dropped; a body without anything changes nothing."""
    service = start_service(CANARY_PERCENT=7)
    noted = service.client.patch("/rollout", json={"reason": "over the weekend"})
    assert noted.status_code == 200
    said = noted.json()
    assert (said["revision"], said["canary_percent"], said["reason"]) == (2, 7, "over the weekend")
    stale = service.client.patch("/rollout", json={"reason": "too late"}, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_revision")
    nothing = service.client.patch("/rollout", json={})
    assert (nothing.status_code, nothing.json(), nothing.headers["etag"]) == (200, said, '"2"')
    reasons = [item["reason"] for item in service.client.get("/rollout/history").json()["items"]]
    assert reasons == ["over the weekend", "CANARY_PERCENT at the first start"]


@pytest.mark.parametrize("percent", ["-1", "100.01", "0.001", '"10"', "true", "[]", "1e400", "NaN", "-0.01"])
def test_a_percentage_that_makes_no_sense_is_refused(shared_service: Service, percent: str) -> None:
    """A percentage that is not a multiple of 0.01 from 0 to 100 gets 422 and changes nothing."""
    before = shared_service.client.get("/rollout").json()
    content = f'{{"canary_percent": {percent}}}'
    answer = shared_service.client.patch("/rollout", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert shared_service.client.get("/rollout").json() == before


def test_sigterm_ends_it_in_order(start_service: StartService) -> None:
    """The service exits with 0 and leaves no worker."""
    service = start_service()
    pids = service.worker_pids()
    assert service.stop() == 0
    assert not any(is_alive(pid) for pid in pids)


def test_readyz_shows_both_pools(start_service: StartService) -> None:
    """Each by itself; workers are processes of their own."""
    service = start_service(PROGRAM_MODULES="examples")
    assert service.client.get("/readyz").json() == {
        "status": "ready",
        "ready": True,
        "draining": False,
        "missing": [],
        "pools": {"v1": True, "v2": True},
    }
    assert service.client.get("/healthz").status_code == 200
    assert os.getpid() not in service.worker_pids()
