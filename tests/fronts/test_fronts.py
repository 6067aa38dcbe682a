"""The promises of a service hold for one with fronts: over all of them, whichever front has the client."""

import concurrent.futures
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.api_keys import Scope, StoredKey, hash_key, new_key
from tests.auth.test_matrix import write_keys
from tests.fronts.conftest import ECHO, FRONTS, Fronted, become_direct, call
from tests.observability.conftest import log_lines
from tests.service.test_errors import problem
from tests.service.test_program_changes import definition, put
from tests.support.service import is_alive
from tests.support.waiting import wait_until

StartFronted = Callable[..., Fronted]
HOLD = {"directory": "string", "name": "string"}


def test_every_call_is_counted_before_its_answer_is_read(fronted: StartFronted) -> None:
    """Metrics, the program and the pool have each call that was answered, whoever ran it."""
    service = fronted()
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    made = service.metric("poolshift_requests_total", operation="execute", outcome="ok")
    direct = service.direct_calls()
    for number in range(25):
        for client in service.clients:
            answer = call(client, echo, {"nonce": str(number)})
            assert answer.json()["outputs"] == {"result": str(number)}
            made += 1
            assert service.metric("poolshift_requests_total", operation="execute", outcome="ok") == made
    assert service.direct_calls() > direct
    refused = len(service.clients)  # each client's first call, of a program that there is not
    decided = service.metric("poolshift_routing_decisions_total", pool_version="v2", reason="split")
    assert decided == made + refused
    answered = service.metric("poolshift_request_duration_seconds_count", operation="execute", pool_version="v2")
    assert answered == made + refused
    handler = "/programs/{program_id}/execute"
    assert service.metric("http_requests_total", handler=handler, status="2xx") == made
    assert service.client.get(f"/programs/{echo}").json()["execution_count"] == made
    pool = service.pool("v2")
    assert pool["totals"]["dispatched"] == sum(worker["executions"] for worker in pool["workers"]) == made


def test_an_answer_is_the_same_whoever_runs_the_call(fronted: StartFronted) -> None:
    """Headers, their order and the body's members are those of the service's own answers."""
    service = fronted()
    echo = service.create("echo", ECHO)
    answers = [call(service.clients[0], echo, {"nonce": "a"})]
    become_direct(service, echo, {"nonce": "a"})
    answers.append(call(service.clients[0], echo, {"nonce": "a"}))
    ours, theirs = answers
    assert [name for name, _ in ours.headers.raw] == [name for name, _ in theirs.headers.raw]
    assert list(ours.json()) == list(theirs.json())
    assert ours.headers["x-execution-id"] == ours.json()["execution_id"] != theirs.json()["execution_id"]
    assert theirs.headers["x-execution-id"] == theirs.json()["execution_id"]
    assert theirs.headers["x-pool-version"] == theirs.json()["pool_version"] == "v2"


def test_all_workers_run_calls_of_one_front(fronted: StartFronted, tmp_path: Path) -> None:
    """The clients of one front have every worker, also those that were on loan to the other."""
    service = fronted(V2_POOL_SIZE=4)
    service.connect(2 * FRONTS)
    hold, echo = service.create("hold", HOLD), service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    of_one_front = service.clients[::FRONTS]
    assert len(of_one_front) == 4
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        calls = [
            callers.submit(call, client, hold, {"directory": str(tmp_path), "name": str(number)})
            for number, client in enumerate(of_one_front)
        ]
        wait_until(lambda: len(list(tmp_path.glob("[0-9].*"))) == 4, "all four run")
        pool = service.pool("v2")
        assert (pool["busy"], pool["idle"], pool["queue_depth"]) == (4, 0, 0)
        assert {worker["program_id"] for worker in pool["workers"]} == {hold}
        (tmp_path / "go").touch()
        assert [one.result().status_code for one in calls] == [200] * 4


def test_a_call_of_the_service_gets_a_worker_from_the_fronts(fronted: StartFronted, tmp_path: Path) -> None:
    """A session's call, which the service itself runs, is not behind the calls that wait at fronts."""
    service = fronted(V2_POOL_SIZE=2)
    slow, echo = service.create("slow_echo", {"nonce": "string", "seconds": "number"}), service.create("echo", ECHO)
    become_direct(service, slow, {"nonce": "a", "seconds": 0})
    stop = threading.Event()

    def keep_calling(client: httpx.Client) -> int:
        count = 0
        while not stop.is_set():
            assert call(client, slow, {"nonce": "a", "seconds": 0.02}).status_code == 200
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        counts = [callers.submit(keep_calling, client) for client in service.clients]
        for _ in range(20):
            answer = service.execute(echo, inputs={"nonce": "b"}, session_id="mine")
            assert answer.json()["outputs"] == {"result": "b"}
        stop.set()
        assert all(count.result() > 0 for count in counts)


def test_calls_wait_as_long_at_one_front_as_at_another(fronted: StartFronted) -> None:
    """Three workers for six callers at each of two fronts: no caller gets answers twice as fast as another."""
    service = fronted(V2_POOL_SIZE=3)
    service.connect(8)
    slow = service.create("slow_echo", {"nonce": "string", "seconds": "number"})
    become_direct(service, slow, {"nonce": "a", "seconds": 0})
    counts: Counter[int] = Counter()
    begin = threading.Barrier(len(service.clients))

    def keep_calling(number: int, client: httpx.Client) -> None:
        begin.wait()
        while counts.total() < 25 * len(service.clients):
            assert call(client, slow, {"nonce": "a", "seconds": 0.03}).status_code == 200
            counts[number] += 1

    with concurrent.futures.ThreadPoolExecutor(len(service.clients)) as callers:
        for one in [callers.submit(keep_calling, *client) for client in enumerate(service.clients)]:
            one.result()
    assert max(counts.values()) < 1.5 * min(counts.values()), counts


def test_a_call_that_closes_its_connection_runs_at_a_front(fronted: StartFronted) -> None:
    """The answer says that the connection closes, and is otherwise that of any direct call."""
    service = fronted()
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    direct = service.direct_calls()
    for client in service.clients:
        answer = call(client, echo, {"nonce": "b"}, Connection="close")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert answer.json()["outputs"] == {"result": "b"}
    assert service.direct_calls() == direct + len(service.clients)


def test_a_workers_death_at_a_front_is_logged_with_its_call(fronted: StartFronted) -> None:
    service = fronted(LOG_FORMAT="json")
    dies = service.create("exits_if", ECHO)
    become_direct(service, dies, {"nonce": "a"})
    answer = call(service.clients[0], dies, {"nonce": "exit"})
    assert problem(answer, 502, "worker_crashed")
    (line,) = log_lines(service, event="worker died")
    assert line["execution_id"] == answer.headers["x-execution-id"]
    assert (line["program_id"], line["pool_version"], line["cause"]) == (dies, "v2", "crash")


def test_a_front_that_comes_amid_the_end_ends_too(fronted: StartFronted) -> None:
    """A front that has died is replaced while the service stops: nobody waits for it until the time is over."""
    service = fronted()
    os.kill(service.front_pids()[0], signal.SIGKILL)
    threading.Event().wait(0.03)  # no condition: the moment is what is tried
    assert service.stop() == 0
    assert "timeout graceful shutdown exceeded" not in service.log()


def test_the_queue_has_one_limit(fronted: StartFronted, tmp_path: Path) -> None:
    """Two calls run and four wait, at the fronts and at the service together; the others are shed at once."""
    service = fronted(V2_POOL_SIZE=2, QUEUE_LIMIT=4)
    service.connect(8)
    hold, echo = service.create("hold", HOLD), service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    with concurrent.futures.ThreadPoolExecutor(12) as callers:
        calls = [
            callers.submit(call, client, hold, {"directory": str(tmp_path), "name": "a"}) for client in service.clients
        ]
        wait_until(lambda: sum(one.done() for one in calls) == 6, "six are shed")
        assert service.pool("v2")["queue_depth"] == 4
        (tmp_path / "go").touch()
        answers = [one.result() for one in calls]
    assert Counter(answer.status_code for answer in answers) == {200: 6, 503: 6}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 503} == {"pool_overloaded"}


def test_a_rollback_is_in_force_on_all_fronts_at_once(fronted: StartFronted) -> None:
    """No call that begins after the rollback's answer goes to V2, and every call is answered well."""
    service = fronted(V1_POOL_SIZE=2, V2_POOL_SIZE=2)
    service.connect(4)
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    rolled_back, stop = threading.Event(), threading.Event()

    def keep_calling(client: httpx.Client) -> list[tuple[bool, int, str]]:
        seen = []
        while not stop.is_set():
            is_after = rolled_back.is_set()
            answer = call(client, echo, {"nonce": "a"})
            seen.append((is_after, answer.status_code, answer.headers["x-pool-version"]))
        return seen

    for _ in range(5):
        before = service.direct_calls()
        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            seen = [callers.submit(keep_calling, client) for client in service.clients]
            wait_until(lambda before=before: service.direct_calls() > before + 100, "fronts run calls")  # type: ignore[misc]
            assert service.client.post("/rollout/rollback").status_code == 200
            rolled_back.set()
            after = service.metric("poolshift_requests_total", pool_version="v1")
            wait_until(
                lambda after=after: service.metric("poolshift_requests_total", pool_version="v1") > after + 20,  # type: ignore[misc]
                "V1 runs calls",
            )
            stop.set()
            calls = [one for client in seen for one in client.result()]
        assert {status for _, status, _ in calls} == {200}
        assert {version for is_after, _, version in calls if is_after} == {"v1"}
        assert "v2" in {version for is_after, _, version in calls if not is_after}
        rolled_back.clear()
        stop.clear()
        assert service.client.patch("/rollout", json={"canary_percent": 100}).status_code == 200
        become_direct(service, echo, {"nonce": "a"})


def test_calls_that_wait_or_run_at_a_front_move_at_a_rollback(fronted: StartFronted, tmp_path: Path) -> None:
    """With `replay` an idempotent call that runs at a front runs on V1, and one that waits there does so anyway."""
    service = fronted(V1_POOL_SIZE=1, V2_POOL_SIZE=2)
    service.connect(2)
    hold = service.create("hold", HOLD, idempotent=True)
    (tmp_path / "go").touch()
    become_direct(service, hold, {"directory": str(tmp_path), "name": "warm"})
    (tmp_path / "go").unlink()
    with concurrent.futures.ThreadPoolExecutor(6) as callers:
        calls = [
            callers.submit(call, client, hold, {"directory": str(tmp_path), "name": f"n{number}"})
            for number, client in enumerate(service.clients)
        ]
        wait_until(lambda: len(list(tmp_path.glob("n*"))) == 2, "two run")
        wait_until(lambda: service.pool("v2")["queue_depth"] == 4, "four wait")
        assert service.client.post("/rollout/rollback", json={"in_flight": "replay"}).status_code == 200
        wait_until(lambda: service.pool("v1")["busy"] == 1, "V1 runs one")
        assert service.pool("v2")["queue_depth"] == 0
        (tmp_path / "go").touch()
        answers = [one.result() for one in calls]
    assert [(one.status_code, one.headers["x-pool-version"]) for one in answers] == [(200, "v1")] * 6


def test_a_changed_program_is_in_force_on_all_fronts(fronted: StartFronted) -> None:
    """The next call runs the new definition, and after a DELETE it is answered that there is no such program."""
    service = fronted()
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    assert put(service, echo, definition("shout")).status_code == 200
    for client in service.clients:
        assert call(client, echo, {"nonce": "a"}).json()["outputs"] == {"result": "A"}
    become_direct(service, echo, {"nonce": "a"})
    assert service.client.delete(f"/programs/{echo}").status_code == 204
    for client in service.clients:
        problem(call(client, echo, {"nonce": "a"}), 404, "program_not_found")


def test_a_page_of_another_site_is_refused_by_a_front(fronted: StartFronted) -> None:
    """A browser's request from elsewhere is not granted by what a client of this machine was granted."""
    service = fronted()
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert call(service.clients[0], echo, {"nonce": "a"}, **headers).status_code == 403


def test_a_key_that_is_revoked_amid_its_call_is_not_granted_afterwards(fronted: StartFronted, tmp_path: Path) -> None:
    app_key, ops_key = new_key(), new_key()
    app = StoredKey(name="app", hash=hash_key(app_key), scopes=frozenset({Scope.EXECUTE}))
    ops = StoredKey(name="ops", hash=hash_key(ops_key), scopes=frozenset({Scope.ADMIN}))
    path = write_keys(tmp_path / "keys.json", [app, ops])
    service = fronted(API_KEYS_FILE=path, EXECUTION_TIMEOUT_S=600)
    service.client.headers["x-api-key"] = ops_key
    hold = service.create("hold", HOLD)
    held = {"directory": str(tmp_path), "name": "held"}
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        running = callers.submit(call, service.clients[0], hold, held, **{"X-API-Key": app_key})
        wait_until(lambda: len(list(tmp_path.glob("held.*"))) == 1, "it runs")
        write_keys(path, [ops])
        wait_until(
            lambda: call(service.clients[1], "none", {}, **{"X-API-Key": app_key}).status_code == 401,
            "the service has read the file",
        )
        (tmp_path / "go").touch()
        assert running.result().status_code == 200
    problem(call(service.clients[0], hold, held, **{"X-API-Key": app_key}), 401, "unauthorized")


def test_a_revoked_key_is_refused_by_all_fronts(fronted: StartFronted, tmp_path: Path) -> None:
    """Once the service has read the file that lacks the key, no front takes it."""
    app_key, ops_key = new_key(), new_key()
    app = StoredKey(name="app", hash=hash_key(app_key), scopes=frozenset({Scope.EXECUTE}))
    ops = StoredKey(name="ops", hash=hash_key(ops_key), scopes=frozenset({Scope.ADMIN}))
    path = write_keys(tmp_path / "keys.json", [app, ops])
    service = fronted(API_KEYS_FILE=path)
    service.client.headers["x-api-key"] = ops_key
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"}, **{"X-API-Key": app_key})
    problem(call(service.clients[0], echo, {"nonce": "a"}), 401, "unauthorized")
    write_keys(path, [ops])
    wait_until(
        lambda: call(service.clients[0], echo, {"nonce": "a"}, **{"X-API-Key": app_key}).status_code == 401,
        "the service has read the file",
    )
    for client in service.clients:
        problem(call(client, echo, {"nonce": "a"}, **{"X-API-Key": app_key}), 401, "unauthorized")


@pytest.mark.parametrize(
    ("function", "well", "badly", "status", "code"),
    [
        ("raises_if", {"nonce": "a"}, {"nonce": "raise"}, 500, "program_error"),
        ("echo", {"nonce": "a"}, {"nonce": 1}, 422, "invalid_inputs"),
        ("exits_if", {"nonce": "a"}, {"nonce": "exit"}, 502, "worker_crashed"),
        ("slow_echo", {"nonce": "a", "seconds": 0}, {"nonce": "a", "seconds": 60}, 504, "execution_timeout"),
    ],
)
def test_a_failure_in_a_front_is_as_any_other(
    fronted: StartFronted, function: str, well: dict[str, Any], badly: dict[str, Any], status: int, code: str
) -> None:
    """The problem and its counts are those of a call that the service ran; the next call is answered."""
    service = fronted(EXECUTION_TIMEOUT_S=1)
    fields = {name: "number" if name == "seconds" else "string" for name in well}
    program = service.create(function, fields)
    ours = problem(call(service.clients[0], program, badly, **{"X-Canary-Key": "a"}), status, code)
    become_direct(service, program, well)
    direct = service.direct_calls()
    for number, client in enumerate(service.clients[:FRONTS]):
        theirs = problem(call(client, program, badly), status, code)
        assert theirs.keys() == ours.keys()
        assert (theirs["pool_version"], theirs["retry_safe"]) == (ours["pool_version"], ours["retry_safe"])
        assert service.metric("poolshift_errors_total", pool_version="v2", code=code) == number + 2
        assert call(client, program, well).status_code == 200
    assert service.direct_calls() > direct
    assert service.metric("poolshift_requests_total", pool_version="v2", outcome=code) == FRONTS + 1
    failures = service.client.get("/failures").json()
    assert code in json.dumps(failures)


def test_an_idempotent_call_whose_worker_dies_at_a_front_runs_again(fronted: StartFronted, tmp_path: Path) -> None:
    service = fronted(V2_POOL_SIZE=2)
    hold = service.create("hold", HOLD, idempotent=True)
    (tmp_path / "go").touch()
    become_direct(service, hold, {"directory": str(tmp_path), "name": "warm"})
    (tmp_path / "go").unlink()
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        held = callers.submit(call, service.clients[0], hold, {"directory": str(tmp_path), "name": "held"})
        wait_until(lambda: len(list(tmp_path.glob("held.*"))) == 1, "it runs")
        (pid,) = [int(path.suffix[1:]) for path in tmp_path.glob("held.*")]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(list(tmp_path.glob("held.*"))) == 2, "it runs again")
        (tmp_path / "go").touch()
        assert held.result().status_code == 200
    assert service.pool("v2")["totals"]["worker_exits"] == {"signal": 1}


def test_a_program_that_kills_workers_at_fronts_is_quarantined(fronted: StartFronted) -> None:
    """Three deaths in a row, at whichever front, and all fronts refuse it."""
    service = fronted(V2_POOL_SIZE=2)
    program = service.create("exits_if", ECHO)
    become_direct(service, program, {"nonce": "a"})
    for number in range(3):
        answer = call(service.clients[number], program, {"nonce": "exit"})
        problem(answer, 502, "worker_crashed")
    for client in service.clients:
        problem(call(client, program, {"nonce": "a"}), 503, "program_quarantined")


def test_a_client_that_leaves_frees_the_worker(fronted: StartFronted, tmp_path: Path) -> None:
    service = fronted(V2_POOL_SIZE=1, WEB_CONCURRENCY=1)
    assert service.front_pids() == []
    service.close()
    service = fronted(V2_POOL_SIZE=2)
    hold = service.create("hold", HOLD)
    (tmp_path / "go").touch()
    become_direct(service, hold, {"directory": str(tmp_path), "name": "warm"})
    (tmp_path / "go").unlink()
    client = service.clients[0]
    with pytest.raises(httpx.ReadTimeout):
        client.post(
            f"/programs/{hold}/execute",
            json={"inputs": {"directory": str(tmp_path), "name": "left"}},
            timeout=1,
        )
    wait_until(lambda: service.pool("v2")["totals"]["worker_exits"] == {"cancelled": 1}, "its worker is killed")
    wait_until(lambda: service.pool("v2")["idle"] == 2, "the pool is whole")


def test_a_front_that_dies_loses_only_its_connections(fronted: StartFronted) -> None:
    """Each call has one answer, its own, or its connection is cut; the clients of other fronts notice nothing."""
    service = fronted(V2_POOL_SIZE=4)
    service.connect(4)
    slow = service.create("slow_echo", {"nonce": "string", "seconds": "number"})
    become_direct(service, slow, {"nonce": "a", "seconds": 0})
    stop = threading.Event()

    def keep_calling(number: int, client: httpx.Client) -> Counter[str]:
        seen: Counter[str] = Counter()
        while not stop.is_set():
            nonce = f"{number}-{seen.total()}"
            try:
                answer = call(client, slow, {"nonce": nonce, "seconds": 0.005})
            except httpx.TransportError:
                seen["cut"] += 1
            else:
                assert answer.status_code == 200, answer.text
                assert answer.json()["outputs"] == {"result": nonce}
                seen["answered"] += 1
        return seen

    def metric(name: str) -> float:
        try:
            return service.metric(name)
        except httpx.TransportError:  # this client's own connection was cut
            return 0.0

    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        counts = [callers.submit(keep_calling, number, client) for number, client in enumerate(service.clients)]
        try:
            for starts in range(FRONTS + 1, FRONTS + 4):
                enough = metric("poolshift_front_calls_total") + 50
                wait_until(lambda enough=enough: metric("poolshift_front_calls_total") > enough, "fronts run calls")  # type: ignore[misc]
                os.kill(service.front_pids()[0], signal.SIGKILL)
                wait_until(lambda starts=starts: metric("poolshift_front_starts_total") == starts, "it is replaced")  # type: ignore[misc]
            wait_until(lambda: metric("poolshift_fronts") == FRONTS, "both serve")
        finally:
            stop.set()
        seen = [count.result() for count in counts]
    assert all(one["cut"] <= 3 for one in seen)
    assert sum(one["cut"] for one in seen) > 0
    wait_until(lambda: service.pool("v2")["idle"] == 4, "the pool is whole")
    assert set(service.pool("v2")["totals"]["worker_exits"]) <= {"cancelled"}
    become_direct(service, slow, {"nonce": "a", "seconds": 0})


def test_a_front_that_is_stopped_is_replaced(fronted: StartFronted) -> None:
    """Once it is killed for its silence, its clients are cut off; those of the other are answered meanwhile."""
    service = fronted(V2_POOL_SIZE=4, LOG_FORMAT="json")
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    stopped = service.front_pids()[0]
    os.kill(stopped, signal.SIGSTOP)

    def asked(client: httpx.Client) -> str:
        try:
            return str(call(client, echo, {"nonce": "b"}).status_code)
        except httpx.TransportError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(len(service.clients)) as callers:
        answered = list(callers.map(asked, service.clients))
    assert {one == "200" for one in answered} == {True, False}, answered
    wait_until(lambda: not is_alive(stopped), "it is killed")
    assert [line["pid"] for line in log_lines(service, event="a front is silent and is killed")] == [stopped]
    wait_until(lambda: len(service.front_pids()) == FRONTS, "it is replaced")
    wait_until(lambda: service.pool("v2")["idle"] == 4, "the pool is whole")


def test_sigterm_finishes_what_fronts_have_accepted(fronted: StartFronted, tmp_path: Path) -> None:
    """All that runs and waits at fronts is answered, new calls get `pool_closed`, and no process is left."""
    service = fronted(V2_POOL_SIZE=2)
    service.connect(2)
    hold = service.create("hold", HOLD)
    (tmp_path / "go").touch()
    become_direct(service, hold, {"directory": str(tmp_path), "name": "warm"})
    (tmp_path / "go").unlink()
    pids = [*service.front_pids(), *service.worker_pids()]
    with concurrent.futures.ThreadPoolExecutor(6) as callers:
        calls = [
            callers.submit(call, client, hold, {"directory": str(tmp_path), "name": "a"}) for client in service.clients
        ]
        wait_until(lambda: service.pool("v2")["queue_depth"] == 4, "two run and four wait")
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.client.get("/readyz").status_code == 503, "it is unready")
        problem(service.execute(hold, inputs={"directory": str(tmp_path), "name": "late"}), 503, "pool_closed")
        (tmp_path / "go").touch()
        assert [one.result().status_code for one in calls] == [200] * 6
    assert service.wait_for_end() == 0
    assert not any(is_alive(pid) for pid in pids)


def test_fronts_end_with_a_service_that_is_killed(fronted: StartFronted) -> None:
    service = fronted()
    pids = service.front_pids()
    assert len(pids) == FRONTS
    assert service.process is not None
    service.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the fronts are gone")


def test_v1_has_one_coordinator_for_all_fronts(fronted: StartFronted, tmp_path: Path) -> None:
    """V1 runs one call at a time, whichever front it came to."""
    service = fronted(CANARY_PERCENT=0, V1_POOL_SIZE=4)
    hold = service.create("hold", HOLD)
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        calls = [
            callers.submit(call, client, hold, {"directory": str(tmp_path), "name": "a"}) for client in service.clients
        ]
        wait_until(lambda: service.pool("v1")["queue_depth"] == 3, "one runs and three wait")
        wait_until(lambda: len(list(tmp_path.glob("a.*"))) == 1, "the one has begun")
        (tmp_path / "go").touch()
        assert [one.result().headers["x-pool-version"] for one in calls] == ["v1"] * 4
    assert service.direct_calls() == 0


def test_the_split_is_kept_over_fronts(fronted: StartFronted) -> None:
    """Amid a canary a key has the same version at every front, and the judge has every call."""
    service = fronted(CANARY_PERCENT=50)
    echo = service.create("echo", ECHO)
    versions: dict[str, set[str]] = {}
    for client in service.clients:
        for number in range(10):
            answer = call(client, echo, {"nonce": "a"}, **{"X-Canary-Key": f"key-{number}"})
            versions.setdefault(f"key-{number}", set()).add(answer.headers["x-pool-version"])
    assert all(len(found) == 1 for found in versions.values())
    assert set.union(*versions.values()) == {"v1", "v2"}
    assert service.direct_calls() == 0
    calls = 10 * len(service.clients)
    wait_until(lambda: service.metric("poolshift_judge_calls_total") == calls, "the judge has all calls")


def test_what_a_front_does_not_understand_is_the_service_s(fronted: StartFronted) -> None:
    """A call of a session, one with a deadline of its own and one with a key for idempotency are no front's own."""
    service = fronted()
    echo = service.create("echo", ECHO)
    become_direct(service, echo, {"nonce": "a"})
    direct = service.direct_calls()
    for client in service.clients:
        for more in ({"session_id": "mine"}, {"timeout_s": 5}):
            body = {"inputs": {"nonce": "a"}, **more}
            assert client.post(f"/programs/{echo}/execute", json=body).status_code == 200
        key = {"Idempotency-Key": f"key-{service.clients.index(client)}"}
        assert call(client, echo, {"nonce": "a"}, **key).status_code == 200
        assert call(client, echo, {"nonce": "a"}, **{"X-Pool-Version": "v1"}).headers["x-pool-version"] == "v1"
    assert service.direct_calls() == direct
