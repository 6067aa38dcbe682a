"""A replica's part of what there is for the whole machine."""

from hypothesis import given
from hypothesis import strategies as st

from app.replicas.mutex import Mutex
from app.replicas.page import Page
from app.replicas.replica import Machine, Replica, part_of


def parts(total: int, count: int) -> list[int]:
    """The part of each of so many replicas."""
    machine = Machine(
        name="test", page=Page(count), wakers=(), peers=(), token="", share=None, listeners=(), rotating=Mutex()
    )
    return [part_of(Replica(machine, index))(total) for index in range(count)]


@given(total=st.integers(0, 1000), count=st.integers(2, 16))
def test_the_parts_are_the_whole_as_even_as_can_be(total: int, count: int) -> None:
    """No part is two larger than another. Of too few things each replica has one; of none, as of a queue, none."""
    found = parts(total, count)
    assert max(found) - min(found) <= 1
    assert sum(found) == (max(total, count) if total else 0)


def test_one_process_has_everything() -> None:
    """There is no replica."""
    assert part_of(None)(7) == 7
