"""A Ray cluster of raylets on this machine, and services whose V2 is on it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

OBJECT_STORE_BYTES = 80_000_000
"""The least that Ray takes."""
SLOTS = 2
"""Workers of one node."""
WHOLE_PATIENCE_S = 120.0
"""Ray takes up to half a minute for an agent on a busy machine, and twice that if it must try again."""


class RayCluster:
    """A head without processors, and nodes with one processor each, which a test adds and takes."""

    def __init__(self, nodes: int) -> None:
        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_system_config": {"prestart_worker_first_driver": False},
            },
        )
        self._has_head = True
        self.address: str = self._cluster.address
        self.nodes: list[Any] = []
        for _ in range(nodes):
            self.add()

    def add(self) -> None:
        """Adds a node; returns when the head knows it."""
        self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES))

    def lose(self) -> None:
        """Kills the processes of the oldest node."""
        self._cluster.remove_node(self.nodes.pop(0), allow_graceful=False)

    def lose_head(self) -> None:
        """Kills the head's own process; the nodes are not told."""
        self._has_head = False
        self._cluster.head_node.kill_gcs_server(check_alive=False)

    def close(self) -> None:
        """Ends everything. Without a head that takes minutes: the end of the network's processes is left to do it."""
        if self._has_head:
            self._cluster.shutdown()

    def settings(self, size: int, slots: int = SLOTS) -> dict[str, Any]:
        """The settings of a service that has its V2 here."""
        return {
            "V2_WORKERS": "ray",
            "V2_POOL_SIZE": size,
            "RAY_ADDRESS": self.address,
            "RAY_WORKERS_PER_NODE": slots,
            "RAY_CPUS_PER_WORKER": 1 / slots,
        }


@contextmanager
def running_cluster(nodes: int) -> Iterator[RayCluster]:
    """A cluster for as long as the block lasts."""
    cluster = RayCluster(nodes)
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def service_on(cluster: RayCluster, directory: Path, size: int, **settings: Any) -> Iterator[Service]:
    """A service whose calls go to V2, which is whole."""
    with running_service(directory, **{"POOL_VERSION": "v2"} | cluster.settings(size) | settings) as service:
        until_whole(service, size)
        yield service


def until_whole(service: Service, size: int, without: Collection[int] = ()) -> None:
    """Waits until V2 has so many workers that serve, and none of the processes `without`.

    A test that has killed processes names them: until the service has noticed, the pool looks whole with them.
    """

    def is_whole() -> bool:
        pool = service.pool("v2")
        is_rid = {worker["pid"] for worker in pool["workers"]}.isdisjoint(without)
        return bool(is_rid and pool["idle"] + pool["busy"] == pool["size"] == size)

    wait_until(is_whole, f"V2 has {size} workers; the log:\n{service.log()}", WHOLE_PATIENCE_S)


def until_size(service: Service, size: int) -> None:
    """Waits until V2 has room for so many workers."""
    wait_until(lambda: service.pool("v2")["size"] == size, f"V2 has room for {size} workers")
