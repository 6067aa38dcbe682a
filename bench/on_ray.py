"""Measures Poolshift on a Ray cluster of raylets on this machine, against Ray Serve on the same cluster.

    make bench-ray

Ray listens on every interface, so the target runs it in a network of its own. It takes a minute of load, and the
packages of the developers and of `ray[serve]`.
"""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ray.cluster_utils import Cluster

from bench import load
from bench.contenders import Contender, Peer, Poolshift
from bench.load import Load
from bench.peers.environment import RAY_ADDRESS as ADDRESS
from bench.servers import Server, free_port
from bench.workloads import BLOCKING, TRIVIAL, Workload

NODES, SLOTS = 3, 8
WORKERS: Final = NODES * SLOTS
CONNECTIONS: Final = 4
REPLICAS: Final = 4
"""The workers of Poolshift, and the replicas of Ray Serve, where they are compared."""
MANY_WORKERS: Final = 64
SECONDS: Final = 5.0
LOOKS: Final = 20
LEAST_TIMES: Final = 10
OBJECT_STORE_BYTES: Final = 80_000_000


@contextmanager
def cluster() -> Iterator[str]:
    """A head and three nodes with one processor each, as Ray counts; yields the address."""
    options: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES}
    head = {"num_cpus": 0, "_system_config": {"prestart_worker_first_driver": False}, "include_dashboard": False}
    made: Any = Cluster(initialize_head=True, head_node_args=head | options)
    try:
        for _ in range(NODES):
            made.add_node(num_cpus=1, **options)
        yield made.address
    finally:
        made.shutdown()


@contextmanager
def running(contender: Contender, workload: Workload, workers: int) -> Iterator[tuple[Server, Path]]:
    """A contender that answers right, and the file with the request."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        body = directory / "body.json"
        body.write_bytes(workload.body)
        with contender.server(workload, workers, directory, free_port(8700)) as server:
            if isinstance(contender, Peer):
                server.wait_until_ready(server.path)  # Ray Serve has its port before its route
            contender.prepare(server, workload)
            yield server, body


def until_whole(server: Server, size: int) -> None:
    """Waits until V2 has all of its workers."""
    while server.client.get("/pools/v2").json()["idle"] < size:
        time.sleep(0.1)


def tell(what: str, seen: Load) -> None:
    """Prints a measurement."""
    print(
        f"{what}: {seen.rps:,.0f}/s, p50 {seen.p50_ms:.2f} ms, p99 {seen.p99_ms:.2f} ms, failed {seen.failed}, "
        f"{seen.server_cpu_us:.0f} µs of the server's processor per call",
        flush=True,
    )


def looks(server: Server, path: str) -> str:
    """The time that a page takes."""
    taken = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        server.client.get(path).raise_for_status()
        taken.append(1000 * (time.perf_counter() - began))
    return f"{path}: p50 {statistics.median(taken):.1f} ms, at most {max(taken):.1f} ms"


def poolshift(address: str, per_node: int) -> Poolshift:
    """The service with V2 on the cluster, where all calls go."""
    settings = {
        "V2_WORKERS": "ray",
        "RAY_ADDRESS": address,
        "RAY_WORKERS_PER_NODE": str(per_node),
        "RAY_CPUS_PER_WORKER": str(1 / per_node),
    }
    return Poolshift("Poolshift on Ray", v1_share=0, settings=settings)


def measure_blocking(address: str) -> None:
    """The program that waits 20 ms, on all workers, and on half of them."""
    ideal = WORKERS / 0.02
    with running(poolshift(address, SLOTS), BLOCKING, WORKERS) as (server, body):
        until_whole(server, WORKERS)
        load.peak(server, body, connections=WORKERS, seconds=2)
        seen = load.peak(server, body, connections=WORKERS + 2, seconds=SECONDS)
        tell(f"20 ms program, {NODES} nodes × {SLOTS} workers ({seen.rps / ideal:.0%} of the ideal)", seen)
        half = load.peak(server, body, connections=WORKERS // 2, seconds=SECONDS)
        tell("20 ms program with half of the workers busy", half)


def measure_views(address: str) -> None:
    """The views of a pool of many workers."""
    with running(poolshift(address, MANY_WORKERS // 2), TRIVIAL, MANY_WORKERS) as (server, body):
        until_whole(server, MANY_WORKERS)
        tell(f"trivial program, {MANY_WORKERS} workers", measure_peak(server, body))
        for path in ("/pools", "/metrics"):
            print(looks(server, path), flush=True)


def measure_trivial(address: str) -> None:
    """The trivial program, against Ray Serve with as many replicas as Poolshift has workers."""
    serve = Peer(name="Ray Serve", module="ray_serve_server", path="/execute", package="ray.serve")
    with running(poolshift(address, math.ceil(REPLICAS / NODES)), TRIVIAL, REPLICAS) as (server, body):
        until_whole(server, REPLICAS)
        ours = measure_peak(server, body)
        tell(f"trivial program, {REPLICAS} workers", ours)
    with running(serve, TRIVIAL, REPLICAS) as (server, body):
        theirs = measure_peak(server, body)
        tell(f"trivial program, Ray Serve, {REPLICAS} replicas", theirs)
    tell_goals(ours, theirs)


def measure_peak(server: Server, body: Path) -> Load:
    """The peak of a server that has been loaded for a while."""
    load.peak(server, body, connections=CONNECTIONS, seconds=2)
    return load.peak(server, body, connections=CONNECTIONS, seconds=SECONDS)


def tell_goals(ours: Load, theirs: Load) -> None:
    """Prints if the goals against Ray Serve are met: ten times its throughput, and a lower median."""
    times = ours.rps / theirs.rps
    print(f"throughput against Ray Serve: {times:.1f} × ({_met(is_met=times >= LEAST_TIMES)})", flush=True)
    verdict = _met(is_met=ours.p50_ms < theirs.p50_ms)
    print(f"p50 against Ray Serve: {ours.p50_ms:.2f} ms to {theirs.p50_ms:.2f} ms ({verdict})", flush=True)


def _met(*, is_met: bool) -> str:
    return "met" if is_met else "missed"


def main() -> None:
    """Measures everything in one run."""
    load.require_tools()
    with cluster() as address:
        os.environ[ADDRESS] = address
        measure_blocking(address)
        measure_views(address)
        measure_trivial(address)


if __name__ == "__main__":
    main()
