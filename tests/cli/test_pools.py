"""`poolshift pools` of a service whose V2 cannot start a worker."""

from pathlib import Path

import pytest

from cli.pools import _remarks
from tests.cli.conftest import Poolshift
from tests.support.service import running_service


def test_a_fault_is_shown_below_the_table(poolshift: Poolshift, tmp_path: Path) -> None:
    """The reason in a line of its own, with the pool's name."""
    with running_service(tmp_path, V1_POOL_SIZE=1, V2_POOL_SIZE=1, V2_PYTHON="/nowhere/python") as service:
        lines = poolshift.at(service.url)("pools").stdout.splitlines()
    assert [line[:2] for line in lines[1:3]] == ["v1", "v2"]
    assert lines[3].startswith("v2: ")
    assert "/nowhere/python" in lines[3]


@pytest.mark.parametrize("wished", [None, 4])
def test_a_pool_that_has_all_it_wishes_for_needs_no_remark(wished: int | None) -> None:
    """Also one of an older service, which does not tell of its wish."""
    assert not list(_remarks({"pool_version": "v2", "fault": None, "size": 4, "wished_size": wished}))


def test_room_that_lacks() -> None:
    """A pool on a cluster with fewer nodes than it needs."""
    pool = {"pool_version": "v2", "fault": None, "size": 8, "wished_size": 24}
    assert list(_remarks(pool)) == ["v2: there is room for 8 of 24 workers"]
