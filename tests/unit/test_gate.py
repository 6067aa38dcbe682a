"""Facts that fronts and the service tell each other by shared memory."""

import os

from app.fronts.gate import Gate, new_gate


def test_a_front_knows_if_another_ones_calls_have_waited() -> None:
    """Not by its own calls, nor by what is left in the memory of a front whose calls wait no more."""
    fd = new_gate(2)
    first, second = Gate(fd, 2), Gate(fd, 2)
    os.close(fd)
    first.front_has(0, waiting=2, idle=0, oldest_us=1000)
    assert second.others_wait_since(1, 1000)
    assert not second.others_wait_since(1, 999)
    assert not first.others_wait_since(0, 1000)
    first.front_has(0, waiting=0, idle=1)
    assert not second.others_wait_since(1, 1000)
