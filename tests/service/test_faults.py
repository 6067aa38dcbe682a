"""Faults: whatever a worker, a program or a client does, every request gets exactly one right answer."""

import concurrent.futures
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pools.quarantine import DEATHS_IN_A_ROW
from poolshift.worker.linux import MAX_OPEN_FILES
from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.support.replicas import COUNT
from tests.support.service import POOLSHIFT, ROOT, Service, is_alive, not_on_async_pool
from tests.support.waiting import wait_until

ECHO = {"nonce": "string"}


def busy(service: Service, version: str) -> int:
    """Returns the number of workers that run a call."""
    return sum(worker["execution_id"] is not None for worker in service.pool(version)["workers"])


def whole(service: Service, version: str) -> bool:
    """Tells if the pool has all its workers, idle, and no others."""
    pool = service.pool(version)
    return bool(pool["idle"] == pool["size"] and pool["starting"] == pool["stopping"] == 0)


def exits(service: Service, version: str, cause: str) -> int:
    """Returns the number of workers that ended for `cause`."""
    count: int = service.pool(version)["totals"]["worker_exits"].get(cause, 0)
    return count


def test_a_program_that_overruns_its_deadline_is_killed(shared_service: Service, version: str) -> None:
    """A program that spins, hangs in C, ignores signals or stops itself gets 504; its worker is replaced."""
    for function in ("spins", "hangs_in_c", "ignores_signals", "stops_itself"):
        program = shared_service.create(function, {})
        before = exits(shared_service, version, "timeout")
        body = problem(shared_service.execute(program, timeout_s=0.3), 504, "execution_timeout")
        assert body["category"] == "timeout"
        assert body["retry_safe"] is False
        assert exits(shared_service, version, "timeout") == before + 1
        wait_until(lambda: whole(shared_service, version), "all workers are back")


def test_the_settings_cap_the_deadline(start_service: StartService, version: str) -> None:
    """A call that asks for nothing has EXECUTION_TIMEOUT_S."""
    service = start_service(POOL_VERSION=version, EXECUTION_TIMEOUT_S=0.3)
    program = service.create("sleep", {"seconds": "number"}, "number")
    problem(service.execute(program, inputs={"seconds": 600}), 504, "execution_timeout")


@pytest.mark.parametrize(
    ("function", "inputs", "arguments", "cause", "says"),
    [
        ("exits", {"code": "integer"}, {"code": 3}, "crash", "exit code 3"),
        ("exits_hard", {"code": "integer"}, {"code": 0}, "crash", "exit code 0"),
        ("segfaults", {}, {}, "signal", "SIGSEGV"),
        ("kills_itself", {"signal_number": "integer"}, {"signal_number": signal.SIGKILL}, "signal", "SIGKILL"),
        ("closes_channel", {}, {}, "crash", "closed its channel"),
        ("writes_garbage", {}, {}, "crash", "frame"),
        ("writes_half_a_frame", {}, {}, "crash", "exit code 0"),
    ],
)
def test_a_worker_that_dies(
    shared_service: Service,
    version: str,
    function: str,
    inputs: dict[str, str],
    arguments: dict[str, Any],
    cause: str,
    says: str,
) -> None:
    """Only the call on it fails, as `worker_crashed` with the cause; the next one is served."""
    program = shared_service.create(function, inputs)
    echo = shared_service.create("echo", ECHO)
    before = exits(shared_service, version, cause)
    body = problem(shared_service.execute(program, inputs=arguments), 502, "worker_crashed")
    assert says in body["exit_cause"]
    assert body["retry_safe"] is False
    assert exits(shared_service, version, cause) == before + 1
    assert shared_service.execute(echo, inputs={"nonce": "next"}).json()["outputs"] == {"result": "next"}
    wait_until(lambda: whole(shared_service, version), "all workers are back")


def test_a_worker_that_takes_no_more_calls(shared_service: Service, version: str) -> None:
    """Only that worker ends, and another takes its place before the next call."""
    program = shared_service.create("closes_requests", {})
    echo = shared_service.create("echo", ECHO)
    before = exits(shared_service, version, "crash")
    logged_before = len(shared_service.log())
    assert shared_service.execute(program).json()["outputs"] == {"result": "closed"}
    wait_until(lambda: exits(shared_service, version, "crash") == before + 1, "it has ended")
    wait_until(lambda: "worker died" in shared_service.log()[logged_before:], "its death is logged")
    wait_until(lambda: whole(shared_service, version), "all workers are back")
    for number in range(16):
        answer = shared_service.execute(echo, inputs={"nonce": str(number)})
        assert answer.json()["outputs"] == {"result": str(number)}


def test_an_idempotent_program_is_run_once_more(shared_service: Service, version: str, tmp_path: Path) -> None:
    """A first crash of the worker stays invisible to the caller; after a second, the caller may try again."""
    program = shared_service.create("crashes_once", {"directory": "string"}, idempotent=True)
    answer = shared_service.execute(program, inputs={"directory": str(tmp_path)})
    assert answer.json()["outputs"] == {"result": "second time"}
    program = shared_service.create("exits_hard", {"code": "integer"}, idempotent=True)
    body = problem(shared_service.execute(program, inputs={"code": 1}), 502, "worker_crashed")
    assert body["retry_safe"] is True


def test_a_forged_reply_reaches_nobody(shared_service: Service, version: str) -> None:
    """A reply with a foreign id or generation is dropped and its worker retired."""
    program = shared_service.create("forges_a_reply", {"execution_id": "string"})
    body = problem(shared_service.execute(program, inputs={"execution_id": "another"}), 502, "worker_crashed")
    assert "protocol violation" in body["exit_cause"]
    wait_until(lambda: whole(shared_service, version), "all workers are back")


def test_ten_megabytes_of_outputs(shared_service: Service) -> None:
    """Arrive whole."""
    program = shared_service.create("big", {"size": "integer"})
    assert len(shared_service.execute(program, inputs={"size": 10_000_000}).json()["outputs"]["result"]) == 10_000_000


def test_outputs_over_the_frame_limit(shared_service: Service) -> None:
    """Are the program's error, and its worker serves on."""
    program = shared_service.create("big", {"size": "integer"})
    problem(shared_service.execute(program, inputs={"size": 70_000_000}), 500, "invalid_outputs")


def test_a_program_that_keeps_killing_workers_is_quarantined(
    start_service: StartService, version: str, tmp_path: Path
) -> None:
    """After three deaths it is stopped at once, for a while, while others run on; mended, it comes back."""
    service = start_service(POOL_VERSION=version)
    fuse = tmp_path / "fuse"
    fuse.touch()
    program = service.create("crashes_while", {"path": "string"})
    echo = service.create("echo", ECHO)
    for _ in range(3):
        problem(service.execute(program, inputs={"path": str(fuse)}), 502, "worker_crashed")
    refused = service.execute(program, inputs={"path": str(fuse)})
    body = problem(refused, 503, "program_quarantined")
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert body["retry_safe"] is True
    assert service.execute(echo, inputs={"nonce": "others"}).status_code == 200
    assert service.pool(version)["totals"]["worker_exits"] == {"crash": 3}
    fuse.unlink()
    wait_until(
        lambda: service.execute(program, inputs={"path": str(fuse)}).status_code == 200, "the quarantine is over"
    )


def test_no_worker_in_time(start_service: StartService, version: str, tmp_path: Path) -> None:
    """A call that waits longer than CHECKOUT_TIMEOUT_S gets 503, and surely did not start."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=0.3)
    program = service.create("hold", {"directory": "string", "name": "string"})
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        first = callers.submit(service.execute, program, inputs={"directory": str(tmp_path), "name": "first"})
        wait_until(lambda: busy(service, version) == 1, "the first call runs")
        second = service.execute(program, inputs={"directory": str(tmp_path), "name": "second"})
        body = problem(second, 503, "checkout_timeout")
        assert body["retry_safe"] is True
        assert int(second.headers["retry-after"]) >= 1
        assert float(second.headers["server-timing"].split("dur=")[1].split(",")[0]) > 0
        (tmp_path / "go").touch()
        assert first.result().status_code == 200
    assert not list(tmp_path.glob("second*"))


def test_a_full_queue_sheds_at_once(start_service: StartService, version: str, tmp_path: Path) -> None:
    """With the queue full a call gets 503 and Retry-After immediately; those that wait are served."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, QUEUE_LIMIT=2, CHECKOUT_TIMEOUT_S=20)
    program = service.create("hold", {"directory": "string", "name": "string"})
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        inputs = {"directory": str(tmp_path), "name": "a"}
        running = [callers.submit(service.execute, program, inputs=inputs)]
        wait_until(lambda: busy(service, version) == 1, "the first call runs")
        running += [callers.submit(service.execute, program, inputs=inputs) for _ in range(2)]
        wait_until(lambda: service.pool(version)["queue_depth"] == 2, "two calls wait")
        shed = service.execute(program, inputs=inputs)
        assert problem(shed, 503, "pool_overloaded")["retry_safe"] is True
        assert int(shed.headers["retry-after"]) >= 1
        (tmp_path / "go").touch()
        assert [call.result().status_code for call in running] == [200] * 3


def test_a_session_that_floods_the_queue_does_not_starve_another(
    start_service: StartService, version: str, tmp_path: Path
) -> None:
    """With the queue full of one session's calls, another session's call is admitted, and served next but one."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, QUEUE_LIMIT=6, CHECKOUT_TIMEOUT_S=20)
    hold = service.create("hold", {"directory": "string", "name": "string"})
    outputs = [{"name": "began", "type": "number"}, {"name": "ended", "type": "number"}]
    interval = service.create("interval", {"seconds": "number"}, outputs=outputs)
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        first = callers.submit(service.execute, hold, inputs={"directory": str(tmp_path), "name": "a"})
        wait_until(lambda: busy(service, version) == 1, "the first call runs")
        flood = [
            callers.submit(service.execute, interval, inputs={"seconds": 0.01}, session_id="flood") for _ in range(6)
        ]
        wait_until(lambda: service.pool(version)["queue_depth"] == 6, "the queue is full")
        modest = callers.submit(service.execute, interval, inputs={"seconds": 0.01}, session_id="modest")
        wait_until(lambda: sum(call.done() for call in flood) == 1, "one of the flood made room")
        (tmp_path / "go").touch()
        assert first.result().status_code == 200
        began = modest.result().json()["outputs"]["began"]
        answers = [call.result() for call in flood]
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [503]
    earlier = [answer for answer in answers if answer.status_code == 200 and answer.json()["outputs"]["began"] < began]
    assert len(earlier) <= 1


def test_a_client_that_goes_away_frees_its_worker(start_service: StartService, version: str, tmp_path: Path) -> None:
    """A running call is killed, a waiting one dropped, and the pool is whole again."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=20)
    program = service.create("hold", {"directory": "string", "name": "string"})

    def call(name: str) -> socket.socket:
        body = f'{{"inputs":{{"directory":"{tmp_path}","name":"{name}"}}}}'
        sock = socket.create_connection(("127.0.0.1", service.port))
        head = f"POST /programs/{program}/execute HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        sock.sendall((head + body).encode())
        return sock

    running = call("running")
    wait_until(lambda: bool(list(tmp_path.glob("running.*"))), "the first call runs")
    waiting = call("waiting")
    wait_until(lambda: service.pool(version)["queue_depth"] == 1, "the second call waits")
    waiting.close()
    wait_until(lambda: service.pool(version)["queue_depth"] == 0, "the second call is dropped")
    running.close()
    wait_until(lambda: exits(service, version, "cancelled") == 1, "the first call's worker is killed")
    wait_until(lambda: whole(service, version), "the worker is replaced")
    assert not list(tmp_path.glob("waiting.*"))


def test_workers_are_recycled(start_service: StartService, version: str) -> None:
    """After so many executions, by memory and by age, each with its replacement ready before, and no call lost."""
    service = start_service(POOL_VERSION=version, WORKER_MAX_EXECUTIONS=5)
    program = service.create("echo", ECHO)

    def five_more_calls() -> bool:
        for number in range(5):
            assert service.execute(program, inputs={"nonce": str(number)}).json()["outputs"] == {"result": str(number)}
            pool = service.pool(version)
            assert pool["busy"] + pool["idle"] >= pool["size"]
        return exits(service, version, "recycled") >= 5

    wait_until(five_more_calls, "workers were recycled")

    service = start_service(POOL_VERSION=version, WORKER_MAX_RSS_MB=150)
    program = service.create("keeps_memory", {"megabytes": "integer"}, "integer")
    assert service.execute(program, inputs={"megabytes": 200}).status_code == 200
    wait_until(lambda: exits(service, version, "recycled") == 1, "the big worker was recycled")

    service = start_service(POOL_VERSION=version, WORKER_MAX_AGE_S=1)
    old = set(service.worker_pids())
    wait_until(lambda: not old & set(service.worker_pids()), "every old worker was replaced")


def test_a_memory_hog_is_killed(start_service: StartService, version: str) -> None:
    """A worker that grows past twice its limit amid a call does not get to finish it."""
    service = start_service(POOL_VERSION=version, WORKER_MAX_RSS_MB=100)
    program = service.create("hogs_memory", {"megabytes": "integer"})
    body = problem(service.execute(program, inputs={"megabytes": 300}), 502, "worker_crashed")
    assert "memory limit" in body["exit_cause"]
    assert exits(service, version, "oom") == 1


def test_workers_are_measured_on_themselves(start_service: StartService, version: str) -> None:
    """Memory, processor time and files of a worker are the child's own."""
    service = start_service(POOL_VERSION=version)
    program = service.create("keeps_memory", {"megabytes": "integer"}, "integer")
    assert service.execute(program, inputs={"megabytes": 64}).status_code == 200
    rows = service.pool(version)["workers"]
    assert max(row["rss_bytes"] for row in rows) > 64 * 1024 * 1024
    assert all(row["open_fds"] >= 4 and row["cpu_seconds"] >= 0 and row["age_s"] > 0 for row in rows)
    assert {row["pid"] for row in rows} <= set(service.worker_pids())
    assert service.metric("poolshift_worker_resident_memory_bytes", pool_version=version) > 64 * 1024 * 1024


def test_a_session_ends_and_frees_what_it_holds(start_service: StartService, version: str) -> None:
    """The session's programs end with it, on request and after its time to live."""
    service = start_service(POOL_VERSION=version, SESSION_TTL_S=1.5)
    program = service.create("echo", ECHO, session_id="mine")
    assert service.execute(program, inputs={"nonce": "a"}, session_id="mine").status_code == 200
    session = service.client.get("/sessions/mine").json()
    assert (session["program_count"], session["execution_count"], session["pool_version"]) == (1, 1, version)
    assert [item["id"] for item in service.client.get("/sessions").json()["items"]] == ["mine"]
    assert service.client.delete("/sessions/mine").status_code == 204
    problem(service.execute(program, inputs={"nonce": "a"}, session_id="mine"), 410, "session_ended")

    program = service.create("echo", ECHO, session_id="short")
    wait_until(lambda: service.client.get("/sessions/short").status_code == 404, "the session has expired")
    problem(service.execute(program, inputs={"nonce": "a"}, session_id="short"), 410, "session_ended")


def test_a_session_prefers_the_worker_that_served_it(start_service: StartService, version: str) -> None:
    """Without contention a session stays on one worker."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=4, V2_POOL_SIZE=4)
    program = service.create("whoami", {}, "object")
    homes = {}
    for session in ("a", "b", "c"):
        pids = {service.execute(program, session_id=session).json()["outputs"]["result"]["pid"] for _ in range(5)}
        assert len(pids) == 1
        homes[session] = pids
    assert service.execute(program, session_id="a").json()["outputs"]["result"]["pid"] in homes["a"]


def test_a_rollback_amid_a_session(start_service: StartService) -> None:
    """The session goes on with V1, with the same programs, and loses no call."""
    service = start_service(CANARY_PERCENT=100)
    program = service.create("echo", ECHO, session_id="mine")
    assert service.execute(program, inputs={"nonce": "a"}, session_id="mine").headers["x-pool-version"] == "v2"
    service.client.post("/rollout/rollback")
    answer = service.execute(program, inputs={"nonce": "b"}, session_id="mine")
    assert (answer.headers["x-pool-version"], answer.json()["outputs"]) == ("v1", {"result": "b"})


def test_calls_that_wait_for_v2_move_over_at_a_rollback(start_service: StartService, tmp_path: Path) -> None:
    """A call that runs on V2 ends there; V1 serves the calls that wait for V2 at once."""
    service = start_service(CANARY_PERCENT=100, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=20)
    hold = service.create("hold", {"directory": "string", "name": "string"})
    echo = service.create("echo", ECHO)
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        running = callers.submit(service.execute, hold, inputs={"directory": str(tmp_path), "name": "a"})
        wait_until(lambda: busy(service, "v2") == 1, "a call runs on V2")
        waiting = [callers.submit(service.execute, echo, inputs={"nonce": "w"}) for _ in range(4)]
        wait_until(lambda: service.pool("v2")["queue_depth"] == 4, "four calls wait for V2")
        service.client.post("/rollout/rollback")
        assert [call.result().headers["x-pool-version"] for call in waiting] == ["v1"] * 4
        (tmp_path / "go").touch()
        assert running.result().headers["x-pool-version"] == "v2"
    assert service.pool("v2")["totals"]["dispatched"] == 1


def test_sigterm_finishes_what_was_accepted(start_service: StartService, version: str, tmp_path: Path) -> None:
    """Running and waiting calls are answered, new ones get `pool_closed`, it turns unready, and exits with 0."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=20)
    program = service.create("hold", {"directory": "string", "name": "string"})
    pids = service.worker_pids()
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        inputs = {"directory": str(tmp_path), "name": "a"}
        accepted = [callers.submit(service.execute, program, inputs=inputs) for _ in range(3)]
        wait_until(lambda: service.pool(version)["queue_depth"] == 2, "one call runs and two wait")
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.client.get("/readyz").status_code == 503, "it is unready")
        refused = service.execute(program, inputs=inputs)
        assert problem(refused, 503, "pool_closed")["retry_safe"] is True
        (tmp_path / "go").touch()
        assert [call.result().status_code for call in accepted] == [200] * 3
    assert service.wait_for_end() == 0
    assert not any(is_alive(pid) for pid in pids)


def test_a_drain_cuts_no_connection_amid_a_request(start_service: StartService, tmp_path: Path) -> None:
    """Each connection that is kept alive gets an answer to all that was sent, and the last one says that it closes."""
    service = start_service(POOL_VERSION="v2", V1_POOL_SIZE=1, V2_POOL_SIZE=2)
    hold = service.create("hold", {"directory": "string", "name": "string"})
    echo = service.create("echo", ECHO)
    request = (
        f"POST /programs/{echo}/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        'content-length: 24\r\n\r\n{"inputs":{"nonce":"a"}}'
    ).encode()
    answered = threading.Semaphore(0)

    def last_answer() -> bytes:
        with socket.create_connection(("127.0.0.1", service.port), 30) as client:
            while True:
                client.sendall(request)
                answer = client.recv(65536)
                answered.release()
                if b"connection: close" in answer or not answer:
                    return answer

    with concurrent.futures.ThreadPoolExecutor(9) as clients:
        held = clients.submit(service.execute, hold, inputs={"directory": str(tmp_path), "name": "held"})
        wait_until(lambda: bool(list(tmp_path.glob("held.*"))), "the call runs")
        last = [clients.submit(last_answer) for _ in range(8)]
        for _ in range(64):
            assert answered.acquire(timeout=30)
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        assert all(b"connection: close" in one.result(30) for one in last)
        (tmp_path / "go").touch()
        assert held.result(30).status_code == 200
    assert service.wait_for_end() == 0


def test_a_rollback_amid_a_drain_loses_nothing(start_service: StartService, tmp_path: Path) -> None:
    """The accepted calls that wait for V2 move to V1, and the drain waits for them there."""
    service = start_service(CANARY_PERCENT=100, V1_POOL_SIZE=1, V2_POOL_SIZE=1, CHECKOUT_TIMEOUT_S=20)
    hold = service.create("hold", {"directory": "string", "name": "string"})
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        inputs = {"directory": str(tmp_path), "name": "a"}
        calls = [callers.submit(service.execute, hold, inputs=inputs) for _ in range(4)]
        wait_until(lambda: busy(service, "v2") == 1, "one call runs")
        wait_until(lambda: service.pool("v2")["queue_depth"] == 3, "three wait")
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.client.get("/readyz").status_code == 503, "it is unready")
        assert service.client.post("/rollout/rollback").status_code == 200
        wait_until(lambda: busy(service, "v1") == 1, "V1 has got one of them")
        (tmp_path / "go").touch()
        answers = [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert sorted(answer.headers["x-pool-version"] for answer in answers) == ["v1"] * 3 + ["v2"]
    assert service.wait_for_end() == 0


def test_a_drain_ends_at_its_timeout(start_service: StartService, version: str, tmp_path: Path) -> None:
    """A call that does not end in time gets `pool_closed`, and the exit code is still 0."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1, DRAIN_TIMEOUT_S=0.5)
    program = service.create("hold", {"directory": "string", "name": "string"})
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        call = callers.submit(service.execute, program, inputs={"directory": str(tmp_path), "name": "a"})
        wait_until(lambda: busy(service, version) == 1, "the call runs")
        assert service.stop() == 0
        problem(call.result(), 503, "pool_closed")


@not_on_async_pool("a worker of this engine has an event loop, which has a socket pair")
def test_a_worker_inherits_nothing_that_it_does_not_need(start_service: StartService, version: str) -> None:
    """No listening socket, no database, no secret; and what the operator passes on arrives."""
    service = start_service(
        POOL_VERSION=version,
        LM_API_KEY="secret-1",
        MY_SERVICE_TOKEN="secret-2",
        PGPASSWORD="secret-3",
        GREETING="hello",
        PASSED_ON_TOKEN="wanted",
        WORKER_ENV="PASSED_ON_TOKEN",
    )
    program = service.create("environment", {}, outputs=[{"name": "environment", "type": "object"}])
    environment = service.execute(program).json()["outputs"]["environment"]
    assert not [value for value in environment.values() if value.startswith("secret")]
    assert (environment["GREETING"], environment["PASSED_ON_TOKEN"]) == ("hello", "wanted")
    assert "DATABASE_URL" not in environment

    program = service.create("open_files", {}, "array")
    files = service.execute(program).json()["outputs"]["result"]
    assert sum("pipe:" in name for name in files) == 4  # stdout and stderr, requests and replies
    assert not [name for name in files if "socket:" in name or ".db" in name or "eventpoll" in name]


def test_only_the_service_may_open_more_files(start_service: StartService) -> None:
    """Connections are its own: it takes its hard limit, and a worker has what the service was started with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    started_with = min(soft, hard, 512)
    service = start_service(command=["prlimit", f"--nofile={started_with}:{hard}", *POOLSHIFT])
    assert service.process is not None
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    assert resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE) == (most, hard)
    for pid in service.worker_pids():
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (started_with, hard)


@pytest.mark.parametrize("escape", [False, True])
def test_a_worker_leaves_no_children(start_service: StartService, version: str, escape: bool) -> None:
    """A program's children die with its worker, even outside the worker's process group."""
    service = start_service(POOL_VERSION=version, WORKER_MAX_EXECUTIONS=1)
    program = service.create("leaves_children", {"escape": "boolean"}, "integer")
    pid = service.execute(program, inputs={"escape": escape}).json()["outputs"]["result"]
    wait_until(lambda: not is_alive(pid), "the grandchild is gone")


def zygote_of(pid: int) -> int:
    """The process that has forked a worker."""
    return psutil.Process(pid).ppid()


def test_a_killed_zygote_is_replaced(start_service: StartService, version: str) -> None:
    """The zygote's workers die with it; the service starts another zygote and serves again."""
    service = start_service(POOL_VERSION=version)
    program = service.create("whoami", {}, "object")
    who = service.execute(program).json()["outputs"]["result"]
    pids = [worker["pid"] for worker in service.pool(version)["workers"] if zygote_of(worker["pid"]) == who["ppid"]]
    others = set(service.worker_pids()) - set(pids)
    os.kill(who["ppid"], signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the old workers are gone")
    assert all(is_alive(pid) for pid in others)
    wait_until(lambda: set(pids).isdisjoint(service.worker_pids()) and whole(service, version), "there are new workers")
    assert service.execute(program).json()["outputs"]["result"]["ppid"] != who["ppid"]


def test_a_killed_zygote_is_no_fault_of_the_programs(start_service: StartService, version: str, tmp_path: Path) -> None:
    """Calls that die with it die by the service's misfortune: however many they are, their program serves on."""
    size = DEATHS_IN_A_ROW + 1
    running = 1 if version == "v1" else size * COUNT
    workers = size * COUNT**2  # whichever replicas the calls come to, all of them run, and many die at one
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=workers, V2_POOL_SIZE=workers)
    zygotes = {zygote_of(worker["pid"]) for worker in service.pool(version)["workers"]}
    program = service.create("hold", {"directory": "string", "name": "string"})
    inputs = {"directory": str(tmp_path), "name": "held"}
    with concurrent.futures.ThreadPoolExecutor(running) as callers:
        calls = [callers.submit(service.execute, program, inputs=inputs) for _ in range(running)]
        wait_until(lambda: len(list(tmp_path.glob("held.*"))) == running, "all run")
        for zygote in zygotes:
            os.kill(zygote, signal.SIGKILL)
        for call in calls:
            problem(call.result(), 502, "worker_crashed")
    (tmp_path / "go").touch()
    wait_until(lambda: whole(service, version), "there are new workers")
    assert service.execute(program, inputs=inputs).status_code == 200


def test_a_stopped_worker_is_not_waited_for(start_service: StartService, version: str) -> None:
    """A worker that was stopped from outside costs its call, at the deadline, and nobody else's."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=1, V2_POOL_SIZE=1)
    program = service.create("echo", ECHO)
    assert service.execute(program, inputs={"nonce": "a"}).status_code == 200
    (worker,) = service.pool(version)["workers"]
    os.kill(worker["pid"], signal.SIGSTOP)
    problem(service.execute(program, inputs={"nonce": "b"}, timeout_s=0.5), 504, "execution_timeout")
    assert service.execute(program, inputs={"nonce": "c"}).json()["outputs"] == {"result": "c"}


def test_what_programs_print_is_logged(shared_service: Service) -> None:
    """Prints, logging and a child's output arrive as log lines with program and execution, and disturb nothing."""
    program = shared_service.create("prints", {"text": "string"})
    answer = shared_service.execute(program, inputs={"text": "hello-from-inside"})
    assert answer.json()["outputs"] == {"result": "hello-from-inside"}
    execution_id = answer.json()["execution_id"]

    def lines() -> list[str]:
        return [line for line in shared_service.log().splitlines() if "hello-from-inside" in line]

    wait_until(lambda: len(lines()) == 4, f"four lines in the log: {lines()}")
    assert sum(execution_id in line for line in lines()) >= 3


def test_workers_that_cannot_start(start_service: StartService, tmp_path: Path) -> None:
    """With every worker dying at its start the service is alive, says that it is not ready, and does not spin."""
    (tmp_path / "sitecustomize.py").write_text("")
    service = Service(tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    broken = "import sys, os\nif 'poolshift.worker.zygote' in ' '.join(sys.orig_argv): os._exit(9)\n"
    (tmp_path / "sitecustomize.py").write_text(broken)
    try:
        service.start(wait=False)

        def answers_unready() -> bool:
            try:
                return service.client.get("/readyz").status_code == 503
            except OSError:
                return False
            except Exception as error:
                if "Connect" in type(error).__name__:
                    return False
                raise

        wait_until(answers_unready, f"it says that it is not ready\n{service.log()}")
        assert service.client.get("/healthz").status_code == 200
        assert service.client.get("/readyz").json()["pools"] == {"v1": False, "v2": False}
        began = time.monotonic()
        wait_until(lambda: service.log().count("could not be started") >= 6, "it tries again")
        assert service.log().count("could not be started") < 6 + 2 * (time.monotonic() - began + 1)
        assert service.stop() == 0
    finally:
        service.close()
