"""The driver's words for what keeps agents from starting: one line for the operator, whatever Ray says."""

import pytest

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
