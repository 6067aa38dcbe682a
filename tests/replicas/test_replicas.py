"""Three servers on one PostgreSQL: one flag, every replica, full history."""

import concurrent.futures
import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import StartService
from tests.replicas.conftest import Postgres
from tests.support.service import Service
from tests.support.waiting import wait_until

ECHO = {"nonce": "string"}


@contextlib.contextmanager
def steady_load(services: list[Service], program: str) -> Iterator[list[int]]:
    """Calls every service without a pause; the statuses of all answers."""
    statuses: list[int] = []
    stop = threading.Event()

    def call(service: Service) -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post(f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}})
                statuses.append(answer.status_code)

    with concurrent.futures.ThreadPoolExecutor(len(services)) as callers:
        calls = [callers.submit(call, service) for service in services]
        try:
            yield statuses
        finally:
            stop.set()
    for one in calls:
        one.result()


def on_v2(service: Service) -> float:
    """Returns the number of calls that this replica has given to V2."""
    return service.metric("poolshift_routing_decisions_total", pool_version="v2")


@pytest.fixture
def replicas(start_service: StartService, postgres: Postgres) -> list[Service]:
    """Three servers that were started at the same moment, on an empty database."""
    with concurrent.futures.ThreadPoolExecutor(3) as starters:
        started = [starters.submit(start_service, DATABASE_URL=postgres.url) for _ in range(3)]
        return [one.result() for one in started]


@pytest.mark.timing
def test_a_rollback_on_one_replica_is_obeyed_by_all(replicas: list[Service]) -> None:
    """Under load, a second after the answer no replica dispatches to V2, and no call has failed."""
    program = replicas[0].create("echo", ECHO)
    with steady_load(replicas, program) as statuses:
        replicas[1].client.patch("/rollout", json={"canary_percent": 100})
        wait_until(lambda: all(on_v2(replica) > 0 for replica in replicas), "every replica is on V2")
        replicas[2].client.post("/rollout/rollback", json={"reason": "a try"})
        time.sleep(1)  # the promise itself: within a second
        settled = [on_v2(replica) for replica in replicas]
        calls = len(statuses)
        wait_until(lambda: len(statuses) > calls + 100, "calls go on")
        assert [on_v2(replica) for replica in replicas] == settled
    assert set(statuses) == {200}
    histories = [replica.client.get("/rollout/history").json()["items"] for replica in replicas]
    assert histories[0] == histories[1] == histories[2]
    assert [item["revision"] for item in histories[0]] == [3, 2, 1]
    assert replicas[2].metric("poolshift_rollback_last_dispatch_seconds") < 1


def test_programs_and_sessions_are_everywhere(replicas: list[Service]) -> None:
    """A new program runs on every replica at once; a deleted one and an ended session's run on none."""
    one, other, third = replicas
    program = one.create("echo", ECHO)
    assert other.execute(program, inputs={"nonce": "a"}).status_code == 200
    own = other.create("echo", ECHO, session_id="mine")
    assert third.execute(own, inputs={"nonce": "a"}, session_id="mine").status_code == 200
    assert third.client.delete(f"/programs/{program}").status_code == 204
    wait_until(
        lambda: all(replica.execute(program, inputs={"nonce": "a"}).status_code == 404 for replica in replicas),
        "the program is gone everywhere",
    )
    assert one.client.delete("/sessions/mine").status_code == 204
    wait_until(
        lambda: all(
            replica.execute(own, inputs={"nonce": "a"}, session_id="mine").status_code == 410 for replica in replicas
        ),
        "the session's program is gone everywhere",
    )


def test_of_concurrent_changes_one_wins(replicas: list[Service]) -> None:
    """With one revision in If-Match, one replica's change comes into force and the others are told."""
    with concurrent.futures.ThreadPoolExecutor(3) as operators:
        answers = list(
            operators.map(
                lambda numbered: numbered[1].client.patch(
                    "/rollout", json={"canary_percent": 10 + numbered[0]}, headers={"If-Match": '"1"'}
                ),
                enumerate(replicas),
            )
        )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412]


def test_without_the_database_executions_go_on(replicas: list[Service], postgres: Postgres) -> None:
    """Writes get a clear 503, a rollback is in force all the same, staleness shows, and everything catches up."""
    program = replicas[0].create("echo", ECHO)
    for replica in replicas:
        assert replica.execute(program, inputs={"nonce": "a"}).status_code == 200
    replicas[0].client.patch("/rollout", json={"canary_percent": 100})
    wait_until(
        lambda: all(replica.client.get("/rollout").json()["canary_percent"] == 100 for replica in replicas),
        "every replica is at 100",
    )
    with steady_load(replicas, program) as statuses:
        postgres.stop()
        wait_until(
            lambda: all(replica.metric("poolshift_rollout_staleness_seconds") > 2 for replica in replicas),
            "the staleness shows",
        )
        refused = replicas[1].client.patch("/rollout", json={"canary_percent": 1})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        rolled_back = replicas[0].client.post("/rollout/rollback")
        assert (rolled_back.status_code, rolled_back.json()["code"]) == (503, "store_unavailable")
        assert "in force on this replica" in rolled_back.json()["detail"]
        assert replicas[0].execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] == "v1"
        assert replicas[1].execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] == "v2"
        assert all(replica.client.get("/readyz").status_code == 200 for replica in replicas)
        postgres.start()
        wait_until(
            lambda: all(replica.client.get("/rollout").json()["canary_percent"] == 0 for replica in replicas),
            "the rollback has reached every replica",
        )
        wait_until(
            lambda: all(replica.metric("poolshift_rollout_staleness_seconds") == 0 for replica in replicas),
            "nobody is stale",
        )
    assert set(statuses) == {200}
    assert replicas[1].client.patch("/rollout", json={"canary_percent": 1}).status_code == 200
    assert replicas[2].create("echo", ECHO)


def test_every_acknowledged_program_is_there(start_service: StartService, postgres: Postgres) -> None:
    """A server that is killed amid 500 creates has kept each one that it has acknowledged."""
    service = start_service(DATABASE_URL=postgres.url)
    acknowledged: list[str] = []

    def create(number: int) -> None:
        with contextlib.suppress(httpx.TransportError):
            acknowledged.append(service.create("echo", ECHO, id=f"program-{number}"))

    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        creates = [callers.submit(create, number) for number in range(500)]
        wait_until(lambda: len(acknowledged) > 50, "some are acknowledged")
        service.stop(signal.SIGKILL)
    for one in creates:
        one.result()
    assert 50 < len(acknowledged) < 500
    service.start()
    for program in acknowledged:
        assert service.execute(program, inputs={"nonce": program}).json()["outputs"] == {"result": program}


def test_a_replica_that_is_cut_off_sends_everything_to_v1(start_service: StartService, postgres: Postgres) -> None:
    """After `ROLLOUT_MAX_STALENESS_S`, and says so; the log's value is back when the database is."""
    service = start_service(DATABASE_URL=postgres.url, CANARY_PERCENT=100, ROLLOUT_MAX_STALENESS_S=2)
    other = start_service(DATABASE_URL=postgres.url)
    program = service.create("echo", ECHO)

    def version(replica: Service) -> str:
        answer = replica.execute(program, inputs={"nonce": "a"})
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-pool-version"])

    assert (version(service), version(other)) == ("v2", "v2")
    postgres.stop()
    wait_until(lambda: version(service) == "v1", "everything goes to V1")
    shown = service.client.get("/rollout").json()
    assert (shown["canary_percent"], shown["stale"], shown["revision"]) == (0, True, 1)
    wait_until(lambda: set(service.samples("poolshift_rollout_cut_off")) == {1}, "each replica of it is cut off")
    assert service.metric("poolshift_canary_percent") == 0
    assert "cut off from the rollout; everything goes to V1" in service.log()
    assert service.client.get("/readyz").status_code == 200
    assert (version(other), other.client.get("/rollout").json()["stale"]) == ("v2", False)
    postgres.start()
    wait_until(lambda: version(service) == "v2", "the log's value is in force again")
    shown = service.client.get("/rollout").json()
    assert (shown["canary_percent"], shown["stale"]) == (100, False)
    wait_until(lambda: service.metric("poolshift_rollout_cut_off") == 0, "no replica of it is cut off")
