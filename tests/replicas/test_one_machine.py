"""Several replicas of one machine (`WEB_CONCURRENCY`): what one changes all obey."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import StartService
from tests.support.service import Service, is_alive
from tests.support.waiting import wait_until

NONCE = {"nonce": "string"}
CHANGES = int(os.environ.get("MACHINE_CHANGES", "100"))
"""Changes of each ledger; `make nightly` makes 1,000."""


def replicas_of(service: Service) -> list[int]:
    """The processes of the replicas, which are the supervisor's children."""
    assert service.process is not None
    return [child.pid for child in psutil.Process(service.process.pid).children()]


def all_processes(service: Service) -> list[int]:
    """The supervisor, its replicas, and whatever these have started."""
    assert service.process is not None
    return [service.process.pid, *(one.pid for one in psutil.Process(service.process.pid).children(recursive=True))]


def one_client_each(service: Service, stack: contextlib.ExitStack) -> dict[int, httpx.Client]:
    """A client with a connection to each replica, by the replica's process: the one with the fewest takes the next."""
    clients: dict[int, httpx.Client] = {}
    wanted = set(replicas_of(service))

    def has_all() -> bool:
        client = stack.enter_context(httpx.Client(base_url=service.url, timeout=60))
        client.get("/healthz").raise_for_status()
        clients.setdefault(_server_of(client, wanted), client)
        return clients.keys() == wanted

    wait_until(has_all, "a connection to each replica")
    return clients


def _server_of(client: httpx.Client, replicas: set[int]) -> int:
    """The replica that has the other end of a client's connection."""
    (connection,) = client._transport._pool.connections  # type: ignore[attr-defined]  # no public way to its socket
    port = connection._connection._network_stream.get_extra_info("client_addr")[1]
    for pid in replicas:
        if any(one.raddr and one.raddr.port == port for one in psutil.Process(pid).net_connections("tcp")):
            return pid
    raise AssertionError(f"no replica has the connection from port {port}")


@pytest.fixture
def machine(start_service: StartService) -> Service:
    """Two replicas, each with a worker of either pool."""
    return start_service(WEB_CONCURRENCY=2, V1_POOL_SIZE=2, V2_POOL_SIZE=2)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes at the end of the test what it has opened."""
    with contextlib.ExitStack() as stack:
        yield stack


# --- its life


def test_each_replica_has_its_part_of_the_workers(start_service: StartService) -> None:
    """The first has three of five workers; each pool has as many as the settings say."""
    service = start_service(WEB_CONCURRENCY=2, V1_POOL_SIZE=5, V2_POOL_SIZE=2)
    assert len(replicas_of(service)) == 2
    assert sorted(len(workers_of(service, pid)) for pid in replicas_of(service)) == [3, 4]


def workers_of(service: Service, replica: int) -> list[int]:
    """The workers that a replica has started."""
    below = {one.pid for one in psutil.Process(replica).children(recursive=True)}
    return [pid for pid in service.worker_pids() if pid in below]


def test_there_are_no_more_replicas_than_workers(start_service: StartService) -> None:
    """Each needs a worker of either pool. A line of the log says how many there are instead."""
    service = start_service(WEB_CONCURRENCY=8, V1_POOL_SIZE=3, V2_POOL_SIZE=2)
    assert len(replicas_of(service)) == 2
    assert "WEB_CONCURRENCY=8" in service.log()


def test_connections_are_spread_evenly(machine: Service, stack: contextlib.ExitStack) -> None:
    """Each replica has four of eight connections that stay."""
    pids, counts = set(replicas_of(machine)), dict.fromkeys(replicas_of(machine), 0)
    machine.client.close()
    for _ in range(8):
        client = stack.enter_context(httpx.Client(base_url=machine.url, timeout=60))
        client.get("/healthz").raise_for_status()
        counts[_server_of(client, pids)] += 1
    assert list(counts.values()) == [4, 4]


def test_one_dies_and_the_others_go_on(machine: Service, stack: contextlib.ExitStack) -> None:
    """The dead one's connections end, and no others; its workers end too, and another takes its place."""
    program = machine.create("echo", NONCE)
    (dead, its_client), (_, other_client) = one_client_each(machine, stack).items()
    its_workers = workers_of(machine, dead)
    os.kill(dead, signal.SIGKILL)
    for client in (other_client, its_client) * 50:  # which has to connect again, to the other one
        client.post(f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}}).raise_for_status()
    wait_until(lambda: len(replicas_of(machine)) == 2 and dead not in replicas_of(machine), "another in its place")
    wait_until(lambda: not any(map(is_alive, its_workers)), "its workers have ended")
    wait_until(lambda: len(one_client_each(machine, stack)) == 2, "both accept connections")


@pytest.mark.timing
def test_a_dead_replica_is_replaced_within_two_seconds(machine: Service, stack: contextlib.ExitStack) -> None:
    """From its death to an answer of the one in its place."""
    dead = replicas_of(machine)[0]
    began = time.monotonic()
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: dead not in replicas_of(machine) and len(replicas_of(machine)) == 2, "another in its place")
    one_client_each(machine, stack)
    assert time.monotonic() - began < 2


def test_a_stopped_replica_takes_no_connection(machine: Service, stack: contextlib.ExitStack) -> None:
    """Whoever comes is answered by the other one."""
    stopped = replicas_of(machine)[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        for _ in range(20):
            client = stack.enter_context(httpx.Client(base_url=machine.url, timeout=60))
            assert client.get("/healthz").status_code == 200
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_nothing_outlives_the_supervisor(machine: Service) -> None:
    """Killed with SIGKILL, it takes replicas, zygotes and workers along."""
    processes = all_processes(machine)
    assert machine.process is not None
    machine.process.kill()
    wait_until(lambda: not any(map(is_alive, processes)), "all have ended")


def test_a_stop_drains_all_replicas(machine: Service, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """A call that runs on each of them is answered, and nothing is left."""
    program = machine.create("hold", {"directory": "string", "name": "string"})
    processes = all_processes(machine)
    with ThreadPoolExecutor() as callers:
        calls = [
            callers.submit(
                client.post,
                f"/programs/{program}/execute",
                json={"inputs": {"directory": str(tmp_path), "name": f"call-{number}"}},
            )
            for number, client in enumerate(one_client_each(machine, stack).values())
        ]
        wait_until(lambda: len(list(tmp_path.glob("call-*"))) == 2, "both calls run")
        assert machine.process is not None
        machine.process.send_signal(signal.SIGTERM)
        wait_until(lambda: machine.log().count("draining") == 2, "both drain")
        (tmp_path / "go").touch()
        assert [call.result().status_code for call in calls] == [200, 200]
    assert machine.wait_for_end() == 0
    assert not any(map(is_alive, processes))


def test_a_hangup_of_the_terminal_ends_it_in_order(tmp_path: Path) -> None:
    """The replicas are none of the terminal's foreground processes: the supervisor hands it on to them."""
    master, terminal = os.openpty()
    service = Service(tmp_path, WEB_CONCURRENCY=2, V1_POOL_SIZE=2, V2_POOL_SIZE=2)
    try:
        service.start(terminal=terminal)
        processes = all_processes(service)
        os.close(master)
        assert service.wait_for_end() == 0
        assert service.log().count("draining") == 2
        assert not any(map(is_alive, processes))
    finally:
        os.close(terminal)
        service.close()


def test_a_signal_amid_the_start_ends_it_in_order(tmp_path: Path) -> None:
    """The exit code is 0, although not all replicas have come to serve."""
    service = Service(tmp_path, WEB_CONCURRENCY=2)
    try:
        service.start(wait=False)
        wait_until(lambda: "Waiting for application startup" in service.log(), "one is starting")
        assert service.stop() == 0
    finally:
        service.close()


def test_what_keeps_one_from_starting_ends_the_start(start_service: StartService, tmp_path: Path) -> None:
    """The reason is one line of each that has come so far, as it is with one process."""
    service = Service(tmp_path, WEB_CONCURRENCY=2, PROGRAM_MODULES="there_is_no_such_module")
    try:
        service.start(wait=False)
        assert service.wait_for_end() != 0
        reasons = [line for line in service.log().splitlines() if "PROGRAM_MODULES=there_is_no_such_module" in line]
        assert 1 <= len(reasons) <= 2, reasons
    finally:
        service.close()


# --- ledgers: after its answer, nobody acts on what was before


@contextlib.contextmanager
def load(service: Service, call: Callable[[httpx.Client], Any], callers: int = 6) -> Iterator["list[Entry]"]:
    """Calls without a pause, on a connection each; what each call has found, and when it began."""
    ledger: list[Entry] = []
    stop = threading.Event()

    def run() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            while not stop.is_set():
                began = time.monotonic()
                ledger.append(Entry(began, call(client), time.monotonic()))

    with ThreadPoolExecutor(callers) as pool:
        running: Sequence[Future[None]] = [pool.submit(run) for _ in range(callers)]
        try:
            yield ledger
        finally:
            stop.set()
    for one in running:
        one.result()


class Entry:
    """A call of the ledger."""

    def __init__(self, began: float, found: Any, ended: float) -> None:
        self.began = began
        self.found = found
        self.ended = ended


@pytest.mark.parametrize("count", [2, 3])
def test_no_replica_acts_on_what_was_before_a_rollback(start_service: StartService, count: int) -> None:
    """Under load, each call that begins after the answer to a rollback, and ends before V2 gets any again, is V1's."""
    service = start_service(WEB_CONCURRENCY=count, V1_POOL_SIZE=count, V2_POOL_SIZE=count)
    program = service.create("echo", NONCE)
    spans: list[tuple[float, float]] = []

    def version(client: httpx.Client) -> str:
        answer = client.post(f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}})
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["pool_version"]
        return found

    with load(service, version) as ledger, httpx.Client(base_url=service.url, timeout=60) as operator:
        for _ in range(CHANGES):
            operator.patch("/rollout", json={"canary_percent": 100}).raise_for_status()
            seen = len(ledger)
            wait_until(lambda seen=seen: any(one.found == "v2" for one in ledger[seen:]), "calls on V2")  # type: ignore[misc]
            operator.post("/rollout/rollback", json={"reason": "ledger"}).raise_for_status()
            answered, seen = time.monotonic(), len(ledger)
            wait_until(lambda seen=seen: len(ledger) > seen + 12, "calls after the rollback")  # type: ignore[misc]
            spans.append((answered, time.monotonic()))
    within = [one for one in ledger for begin, end in spans if begin < one.began and one.ended < end]
    assert len(within) >= CHANGES
    assert [one for one in within if one.found != "v1"] == []


@pytest.mark.parametrize("count", [2, 3])
def test_no_replica_runs_what_was_before_a_change(start_service: StartService, count: int) -> None:
    """Under load, each call that begins after the answer to a PUT, and ends before the next, runs the new one."""
    service = start_service(WEB_CONCURRENCY=count, V1_POOL_SIZE=count, V2_POOL_SIZE=count)
    program = service.create("echo", NONCE)
    definition = {
        "program_type": "python",
        "signature": {
            "inputs": [{"name": "nonce", "type": "string"}],
            "outputs": [{"name": "result", "type": "string"}],
        },
    }
    spans: list[tuple[float, float, str]] = []

    def result(client: httpx.Client) -> str:
        answer = client.post(f"/programs/{program}/execute", json={"inputs": {"nonce": "a"}})
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["outputs"]["result"]
        return found

    with load(service, result) as ledger, httpx.Client(base_url=service.url, timeout=60) as operator:
        for number in range(CHANGES):
            function, says = (("shout", "A"), ("echo", "a"))[number % 2]
            changed = {**definition, "entrypoint": f"tests.support.programs:{function}"}
            operator.put(f"/programs/{program}", json=changed).raise_for_status()
            answered, seen = time.monotonic(), len(ledger)
            wait_until(lambda seen=seen: len(ledger) > seen + 12, "calls after the change")  # type: ignore[misc]
            spans.append((answered, time.monotonic(), says))
    within = [(one, says) for one in ledger for begin, end, says in spans if begin < one.began and one.ended < end]
    assert len(within) >= CHANGES
    assert [one.found for one, says in within if one.found != says] == []
