"""Execution ids: random, each of them once."""

import re

from app.execute.execution_ids import ID_LENGTH, ExecutionIds


def test_each_id_is_new_and_random_throughout() -> None:
    """Over several refills of the stock, and for two stocks at once; every digit of every place occurs."""
    stocks = ExecutionIds(), ExecutionIds()
    ids = [stock.next() for _ in range(1000) for stock in stocks]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(f"[0-9a-f]{{{ID_LENGTH}}}", one) for one in ids)
    for place in range(ID_LENGTH):
        assert len({one[place] for one in ids}) == 16
