"""Faults of processes: no descriptors, a stopped zygote, signals, reloads. No call is lost, and all comes back."""

import concurrent.futures
import os
import resource
import signal
from collections import deque
from pathlib import Path
from typing import Any

from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.service.test_faults import ECHO, busy, whole
from tests.support.replicas import alone, have_said
from tests.support.service import SEES_OPEN_FILES, Service, is_alive
from tests.support.waiting import wait_until

STEADY_LOOKS = 20
"""Looks at a figure that find the same before it is taken for steady."""
HOLD = {"directory": "string", "name": "string"}


def zygote(service: Service) -> int:
    """The process that workers are forked from."""
    program = service.create("whoami", {}, "object")
    pid: int = service.execute(program).json()["outputs"]["result"]["ppid"]
    return pid


def zygotes_of(service: Service) -> list[int]:
    """The zygotes of both pools, or the reapers before them, of a service whose programs cannot be asked."""
    assert service.process is not None
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return [int(child) for child in children if "zygote" in Path(f"/proc/{child}/cmdline").read_text()]


def open_fds(service: Service) -> int:
    assert service.process is not None
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def steady_fds(service: Service) -> int:
    """Counts the descriptors once a second's looks have found the same: a worker that tried a program may be ending."""
    looks: deque[int] = deque(maxlen=STEADY_LOOKS)

    def is_steady() -> bool:
        looks.append(open_fds(service))
        return len(looks) == STEADY_LOOKS and len(set(looks)) == 1

    wait_until(is_steady, "the number of descriptors is steady")
    return looks[-1]


@alone("limits the descriptors of the one process")
@SEES_OPEN_FILES
def test_pools_come_back_when_there_are_descriptors_again(start_service: StartService) -> None:
    """Workers and zygote die while so many descriptors are left, none or a few: then it starts all, and leaks none."""
    service = start_service()
    echo = service.create("echo", ECHO)
    assert service.process is not None
    pid = service.process.pid
    wait_until(lambda: whole(service, "v1") and whole(service, "v2"), "all workers are there")
    wait_until(lambda: "V2 against V1" in service.log(), "the interpreters have been asked, which takes descriptors")
    before = steady_fds(service)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    for left in (0, 1, 2, 3, 5, 8, 13):
        highest = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
        failures = service.log().count("worker could not be started")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + left, limits[1]))
        workers = service.worker_pids()
        for zygote in zygotes_of(service):
            os.kill(zygote, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)), "the old workers are gone")  # noqa: B023
        wait_until(
            lambda: service.log().count("worker could not be started") > failures or whole(service, "v1"),  # noqa: B023
            "starts fail, or succeed",
        )
        assert service.client.get("/healthz").status_code == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: whole(service, "v1") and whole(service, "v2"), f"all workers are back after {left}", 40)
        wait_until(lambda: open_fds(service) == before, f"{before} descriptors are open again after {left}")
    assert service.execute(echo, inputs={"nonce": "a"}).json()["outputs"] == {"result": "a"}
    assert "Traceback" not in service.log()


def test_calls_end_while_the_zygote_is_stopped(start_service: StartService, version: str) -> None:
    """An overdue and a crashed call get their answers, others run, and SIGTERM ends the service."""
    service = start_service(POOL_VERSION=version)
    spins, exits, echo = (
        service.create("spins", {}),
        service.create("exits_hard", {"code": "integer"}),
        service.create("echo", ECHO),
    )
    pid = zygote(service)
    os.kill(pid, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        overdue = callers.submit(service.execute, spins, timeout_s=0.3)
        # V1 runs one call at a time: the one that crashes must not come first.
        wait_until(lambda: overdue.done() or service.pool(version)["busy"] > 0, "the first call runs")
        crashed = callers.submit(service.execute, exits, inputs={"code": 3})
        problem(overdue.result(), 504, "execution_timeout")
        problem(crashed.result(), 502, "worker_crashed")
    assert service.execute(echo, inputs={"nonce": "a"}).status_code == 200
    wait_until(lambda: whole(service, version), "all workers are back")
    os.kill(pid, signal.SIGSTOP)
    assert service.stop() == 0
    assert not is_alive(pid)


def test_a_program_that_keeps_stopping_its_parent(start_service: StartService, version: str) -> None:
    """Others are served meanwhile, and once it has gone the pool is whole."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=3, V2_POOL_SIZE=3, CHECKOUT_TIMEOUT_S=20)
    stops, echo = service.create("stops_its_parent", {"seconds": "number"}, "integer"), service.create("echo", ECHO)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        stopping = callers.submit(service.execute, stops, inputs={"seconds": 60}, timeout_s=1)
        for number in range(5):
            assert service.execute(echo, inputs={"nonce": str(number)}).status_code == 200
        problem(stopping.result(), 504, "execution_timeout")
    wait_until(lambda: whole(service, version), "all workers are back")


# --- signals


def test_a_second_sigterm_ends_what_runs(start_service: StartService, version: str, tmp_path: Path) -> None:
    """As `pool_closed`, with the usual headers; only what surely did not start, or is idempotent, may be sent again."""
    service = start_service(POOL_VERSION=version, V1_POOL_SIZE=2, V2_POOL_SIZE=2, CHECKOUT_TIMEOUT_S=20)
    plain, idempotent = service.create("hold", HOLD), service.create("hold", HOLD, idempotent=True)
    running = 1 if version == "v1" else 2
    with concurrent.futures.ThreadPoolExecutor(8) as callers:

        def call(program: str, name: str) -> concurrent.futures.Future[Any]:
            return callers.submit(service.execute, program, inputs={"directory": str(tmp_path), "name": name})

        calls = {"plain": call(plain, "plain")}
        wait_until(lambda: busy(service, version) == 1, "the first call runs")
        calls["idempotent"] = call(idempotent, "idempotent")
        wait_until(lambda: service.pool(version)["queue_depth"] + busy(service, version) == 2, "the second is accepted")
        wait_until(lambda: busy(service, version) == running, "as many run as can")
        calls["queued"] = call(plain, "queued")
        wait_until(lambda: service.pool(version)["queue_depth"] == 3 - running, "the third waits")
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in service.log(), "it drains")
        service.process.send_signal(signal.SIGTERM)
        for name, pending in calls.items():
            answer = pending.result()
            body = problem(answer, 503, "pool_closed")
            assert body["retry_safe"] is (name != "plain"), name
            assert answer.headers["x-pool-version"] == body["pool_version"] == version
            assert answer.headers["x-execution-id"] == body["execution_id"]
            assert "queue;dur=" in answer.headers["server-timing"]
    assert service.wait_for_end() == 0


SHOP = "def price(nonce: str) -> str:\n    return '{}'\n"


def test_sighup_reloads_the_code(start_service: StartService, tmp_path: Path, version: str) -> None:
    """Without a terminal: each worker is replaced, every call that is made meanwhile is answered."""
    module = tmp_path / "shop.py"
    module.write_text(SHOP.format("old"))
    service = start_service(POOL_VERSION=version, PROGRAM_MODULES="shop", PYTHONPATH=tmp_path)
    price = service.create("shop:price", ECHO)
    assert service.execute(price, inputs={"nonce": "a"}).json()["outputs"] == {"result": "old"}
    before = set(service.worker_pids())
    module.write_text(SHOP.format("the new price"))
    assert service.process is not None
    service.process.send_signal(signal.SIGHUP)
    answers = []

    def is_reloaded() -> bool:
        answers.append(service.execute(price, inputs={"nonce": "a"}))
        return have_said(service.log(), "reloaded", times=2)  # of both pools

    wait_until(is_reloaded, "it says that it has reloaded")
    assert {answer.status_code for answer in answers} == {200}
    assert service.execute(price, inputs={"nonce": "a"}).json()["outputs"] == {"result": "the new price"}
    assert not before & set(service.worker_pids())
    assert set(service.pool(version)["totals"]["worker_exits"]) == {"recycled"}
    assert service.stop() == 0


def test_a_hangup_of_the_terminal_ends_it_drained(tmp_path: Path, version: str) -> None:
    """The service finishes the accepted calls and exits with 0."""
    master, terminal = os.openpty()
    service = Service(tmp_path, POOL_VERSION=version)
    try:
        service.start(terminal=terminal)
        program = service.create("hold", HOLD)
        with concurrent.futures.ThreadPoolExecutor(1) as callers:
            call = callers.submit(service.execute, program, inputs={"directory": str(tmp_path), "name": "a"})
            wait_until(lambda: busy(service, version) == 1, "the call runs")
            os.close(master)
            wait_until(lambda: "draining" in service.log(), "it drains")
            (tmp_path / "go").touch()
            assert call.result().status_code == 200
        assert service.wait_for_end() == 0
    finally:
        os.close(terminal)
        service.close()
