"""The driver without a cluster: its words for what keeps agents from starting, and the end of its node."""

import socket
from pathlib import Path

import pytest

from pools.ray.driver_messages import Plan

pytestmark = pytest.mark.ray

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.59.0
    Python: 3.11.7
This process on node 10.0.0.7 was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""
NO_PACKAGE = """ray::NodeActor.__init__() (pid=359, ip=10.0.0.7)
  File "poolshift/node/agent.py", line 14, in <module>
    import msgspec
ModuleNotFoundError: No module named 'msgspec'
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            MISMATCH,
            "Version mismatch: The cluster was started with: Ray: 2.59.0 Python: 3.11.7 This process on node 10.0.0.7 "
            "was started with: Ray: 2.60.0 Python: 3.11.7",
        ),
        (NO_PACKAGE, "the node's Python has no msgspec: install it there, or name it in RAY_REQUIREMENTS"),
        ("first\nValueError: the last is what counts", "ValueError: the last is what counts"),
        ("", "RuntimeError"),
    ],
)
def test_what_ray_says_becomes_one_line(said: str, line: str) -> None:
    """The line names what differs or lacks."""
    from pools.ray.driver import one_line

    assert one_line(RuntimeError(said)) == line


def test_a_driver_ends_with_its_node(tmp_path: Path) -> None:
    """Ray would wait for a node that is gone, even if the cluster is started anew. A broken connection is no end."""
    from pools.ray.driver import Driver

    path = str(tmp_path / "raylet")
    plan = Plan(address="127.0.0.1:1", namespace="test", slots=[1], cpus_per_worker=1, code="", requirements=[])
    with socket.socket() as link, socket.socket(socket.AF_UNIX) as node:
        node.bind(path)
        node.listen()
        made = Driver(plan, link)
        made._watch_node(path)
        node.accept()[0].close()
        made._check_node()
        connection, _ = node.accept()
        made._check_node()
        node.close()
        made._check_node()
        connection.close()
        with pytest.raises(RuntimeError, match="node of this machine has ended"):
            made._check_node()
