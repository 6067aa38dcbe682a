"""The long form, in a network of its own (tests/ray/test_on_ray.py): load amid faults, and the end of the head."""

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from tests.ray.cluster import SLOTS, RayCluster, running_cluster, service_on, until_size, until_whole
from tests.support.service import Service
from tests.support.waiting import wait_until

NODES = 2
SIZE = NODES * SLOTS
SECONDS = float(os.environ["RAY_SECONDS"])
HEAD_PATIENCE_S = 150.0
"""Nodes give up a minute after their head has gone."""


def test_load_amid_faults(tmp_path: Path) -> None:
    """Nodes are lost and come back, agents and workers are killed: calls of an idempotent program lose nothing."""
    with running_cluster(NODES) as cluster, service_on(cluster, tmp_path, SIZE) as service:
        idempotent = service.create("whoami", {}, "object", idempotent=True)
        codes: Counter[str] = Counter()
        faults: Counter[str] = Counter()
        is_over = threading.Event()
        threads = [threading.Thread(target=_load, args=(service, idempotent, codes, is_over)) for _ in range(3)]
        for thread in threads:
            thread.start()
        end, choice = time.monotonic() + SECONDS, random.Random(SIZE)
        while time.monotonic() < end:
            fault = choice.choice(("worker", "worker", "agent", "node"))
            faults[fault] += 1
            dead = _cause(fault, choice, cluster, service)
            until_whole(service, SIZE, without=dead)
        is_over.set()
        for thread in threads:
            thread.join()
        print(dict(codes), dict(faults))
        assert codes["ok"] > 0
        assert set(codes) <= {"ok", "worker_crashed"}  # killed twice: once again, and once more
        assert codes["worker_crashed"] <= codes["ok"] / 1000


def _cause(fault: str, choice: random.Random, cluster: RayCluster, service: Service) -> set[int]:
    """Kills a worker, an agent, or a node that comes back. Returns the workers that die of it."""
    workers = service.pool("v2")["workers"]
    victim = choice.choice(workers)
    on_its_node = {worker["pid"] for worker in workers if worker["node"] == victim["node"]}
    if fault == "worker":
        psutil.Process(victim["pid"]).kill()
        return {victim["pid"]}
    if fault == "agent":
        psutil.Process(victim["pid"]).parents()[2].kill()
        return on_its_node
    cluster.lose()
    until_size(service, SIZE - SLOTS)
    cluster.add()
    return set()


def _load(service: Service, program: str, codes: Counter[str], is_over: threading.Event) -> None:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        while not is_over.is_set():
            answer = client.post(f"/programs/{program}/execute", json={"inputs": {}})
            codes[answer.json().get("code", "ok")] += 1


def test_the_end_of_the_head(tmp_path: Path) -> None:
    """V2 serves on, then is down with a reason; V1 serves all the time."""
    with running_cluster(1) as cluster, service_on(cluster, tmp_path, SLOTS, POOL_VERSION="") as service:
        program = service.create("whoami", {}, "object")
        on_v2 = {"X-Pool-Version": "v2"}
        cluster.lose_head()
        assert service.execute(program, headers=on_v2).status_code == 200
        wait_until(lambda: service.pool("v2")["size"] == 0, "V2 has lost its node", HEAD_PATIENCE_S)
        wait_until(lambda: bool(service.pool("v2")["fault"]), "V2 says why", HEAD_PATIENCE_S)
        assert service.execute(program).headers["x-pool-version"] == "v1"
        assert service.client.get("/readyz").json()["pools"] == {"v1": True, "v2": False}
