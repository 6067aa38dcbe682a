"""The short form, in a network of its own (tests/ray/test_on_ray.py): calls, kills, lost nodes, and no orphan."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.ray.cluster import (
    OBJECT_STORE_BYTES,
    SLOTS,
    RayCluster,
    running_cluster,
    service_on,
    until_size,
    until_whole,
)
from tests.support.service import Service, is_alive
from tests.support.waiting import wait_until

FILLS_THE_STORES = f"""
import sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=0, max_retries=0)
def fill():
    return bytes({OBJECT_STORE_BYTES // 2})

on_nodes = [NodeAffinitySchedulingStrategy(node, soft=False) for node in sys.argv[2:]]
objects = [fill.options(scheduling_strategy=on).remote() for on in on_nodes for _ in range(4)]
ray.wait(objects, num_returns=len(objects), fetch_local=False)
print("full", flush=True)
sys.stdin.read()
"""
"""A driver whose tasks leave twice as much on each node as its object store holds: the rest goes to the disk."""

NODES = 2
SIZE = NODES * SLOTS


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of two nodes, for all tests."""
    with running_cluster(NODES) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def service(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose V2 has all places of the cluster."""
    with service_on(cluster, tmp_path_factory.mktemp("service"), SIZE, EXECUTION_TIMEOUT_S=110) as service:
        yield service


def agent_of(pid: int) -> psutil.Process:
    """The agent of a worker: above its zygote and the zygote's reaper."""
    agent = psutil.Process(pid).parents()[2]
    assert agent.name().startswith("ray::")
    return agent


def workers_of(agent: psutil.Process, service: Service) -> set[int]:
    """The workers of V2 that an agent has."""
    below = {process.pid for process in agent.children(recursive=True)}
    return below & {worker["pid"] for worker in service.pool("v2")["workers"]}


def test_the_view_of_a_pool(service: Service) -> None:
    """Each worker has its node and its figures, and the nodes have the same number of them."""
    service.execute(service.create("whoami", {}, "object"))
    pool = service.pool("v2")
    assert (pool["workers_on"], pool["size"], pool["wished_size"], pool["fault"]) == ("ray", SIZE, SIZE, None)
    assert sorted(Counter(worker["node"] for worker in pool["workers"]).values()) == [SLOTS] * NODES
    assert all(worker["rss_bytes"] > 0 and worker["open_fds"] > 0 for worker in pool["workers"])
    assert service.metric("poolshift_pool_workers", pool_version="v2") == SIZE
    assert service.metric("poolshift_worker_resident_memory_bytes", pool_version="v2") > 0


def test_a_session_stays_on_its_worker(service: Service) -> None:
    """On whichever node that is."""
    program = service.create("whoami", {}, "object")
    for session in ("a", "b"):
        answers = [service.execute(program, session_id=session).json() for _ in range(5)]
        assert len({answer["outputs"]["result"]["pid"] for answer in answers}) == 1


def test_output_and_trace_come_as_ever(service: Service) -> None:
    """The lines of a program are in the service's log, with the ids of its call."""
    program = service.create("prints", {"text": "string"})
    trace = "0af7651916cd43dd8448eb211c80319c"
    service.execute(program, inputs={"text": "seen"}, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    wait_until(
        lambda: any("seen" in line and trace in line for line in service.log().splitlines()), "the line is there"
    )


def test_a_deadline_kills_and_the_pool_is_whole(service: Service) -> None:
    """As on one machine; the process is dead when the answer comes."""
    answer = service.execute(service.create("spins", {}, "object"), timeout_s=0.5)
    assert (answer.status_code, answer.json()["code"]) == (504, "execution_timeout")
    until_whole(service, SIZE)


def test_a_crash_says_how(service: Service) -> None:
    """The signal is that of the node's process."""
    answer = service.execute(service.create("segfaults", {}, "object"))
    assert (answer.json()["code"], answer.json()["exit_cause"]) == ("worker_crashed", "signal SIGSEGV")
    until_whole(service, SIZE)


def test_a_lost_node_costs_its_calls_alone(service: Service, cluster: RayCluster) -> None:
    """Each call has one answer, calls of an idempotent program have a good one; the node's return makes all whole."""
    idempotent = service.create("whoami", {}, "object", idempotent=True)
    sleep = service.create("sleep", {"seconds": "number"}, "number")
    codes: Counter[str] = Counter()
    is_over = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=service.url, timeout=120) as client:
            while not is_over.is_set():
                codes[client.post(f"/programs/{idempotent}/execute", json={"inputs": {}}).json().get("code", "ok")] += 1

    def run_long(answers: list[httpx.Response]) -> None:
        with httpx.Client(base_url=service.url, timeout=120) as client:
            answers.append(client.post(f"/programs/{sleep}/execute", json={"inputs": {"seconds": 100}}))

    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=load) for _ in range(2)]
    # One long call on each worker but one: some of them are on the node that goes.
    threads += [threading.Thread(target=run_long, args=[answers]) for _ in range(SIZE - 1)]
    for thread in threads:
        thread.start()
    wait_until(lambda: service.pool("v2")["busy"] >= SIZE - 1, "the long calls run")
    cluster.lose()
    until_size(service, SIZE - SLOTS)
    wait_until(lambda: bool(answers), "the calls of the node have ended")
    assert {answer.json()["exit_cause"] for answer in answers} == {"node lost"}
    assert len(answers) <= SLOTS
    cluster.add()
    until_size(service, SIZE)
    is_over.set()
    left = [worker["pid"] for worker in service.pool("v2")["workers"] if worker["program_id"] == sleep]
    for pid in left:
        psutil.Process(pid).kill()
    for thread in threads:
        thread.join()
    assert len(answers) == SIZE - 1
    assert set(codes) == {"ok"}
    until_whole(service, SIZE, without=left)


def test_an_agent_that_is_killed_is_replaced(service: Service) -> None:
    """Nothing of it is left; Ray starts another."""
    agent = agent_of(service.pool("v2")["workers"][0]["pid"])
    dead = workers_of(agent, service)
    assert len(dead) == SLOTS
    agent.kill()
    wait_until(lambda: not any(map(is_alive, dead)), "the workers are dead")
    until_whole(service, SIZE, without=dead)
    assert agent.pid not in {agent_of(worker["pid"]).pid for worker in service.pool("v2")["workers"]}


def test_a_driver_that_is_killed_is_replaced(service: Service) -> None:
    """The agents end with their driver; the next one brings others, and nobody looks for the old ones any more."""
    assert service.process is not None
    gone = service.log().count("node is gone")
    dead = [worker["pid"] for worker in service.pool("v2")["workers"]]
    below = psutil.Process(service.process.pid).children(recursive=True)
    (driver,) = [process for process in below if "pools.ray.driver" in process.cmdline()]
    driver.kill()
    until_whole(service, SIZE, without=dead)
    # Ray may end an old agent after the new ones have come.
    wait_until(
        lambda: service.log().count("node is gone") == gone + NODES,
        f"the end of the old nodes is noticed; the log:\n{service.log()}",
    )


def test_a_full_object_store_stops_nothing(service: Service, cluster: RayCluster) -> None:
    """No byte of a call or of the code goes through it: large inputs run, and a new agent starts."""
    holder = subprocess.Popen(
        [sys.executable, "-c", FILLS_THE_STORES, cluster.address, *(node.node_id for node in cluster.nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "full\n"
        agent = agent_of(service.pool("v2")["workers"][0]["pid"])
        dead = workers_of(agent, service)
        agent.kill()
        until_whole(service, SIZE, without=dead)
        large = "x" * 500_000  # Ray would put it into its store from 100 kB on
        answer = service.execute(service.create("echo", {"nonce": "string"}), inputs={"nonce": large})
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"] == {"result": large}
        holder.kill()


def test_two_services_share_a_cluster(cluster: RayCluster, tmp_path: Path) -> None:
    """A second service waits for room, and says so; it serves V1 meanwhile, and has none of the first one's workers."""
    settings = {"V2_POOL_SIZE": 1, "RAY_WORKERS_PER_NODE": 1, "RAY_CPUS_PER_WORKER": 0, "POOL_VERSION": "v2"}
    with service_on(cluster, tmp_path, 1, **settings) as other:
        assert other.execute(other.create("whoami", {}, "object")).status_code == 200


def test_a_service_that_is_killed_leaves_no_process(service: Service) -> None:
    """Workers, zygotes and agents end."""
    pids = [worker["pid"] for worker in service.pool("v2")["workers"]]
    agents = {agent_of(pid).pid for pid in pids}
    assert service.process is not None
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    wait_until(lambda: not any(map(is_alive, [*pids, *agents])), "no process is left")
