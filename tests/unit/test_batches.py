"""What is counted in memory is written once, whatever fails on the way."""

from collections.abc import Mapping

import pytest

from routing.batches import MAX_BATCH, write_in_batches

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("count", [0, 1, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1, 3 * MAX_BATCH])
async def test_all_is_written_in_order_and_in_bounds(count: int) -> None:
    """No batch is over the limit, and nothing is left."""
    written: list[dict[str, int]] = []

    async def write(batch: Mapping[str, int]) -> None:
        written.append(dict(batch))

    uses = {f"{number:05}": number for number in reversed(range(count))}
    await write_in_batches(uses, write)
    assert [key for batch in written for key in batch] == [f"{number:05}" for number in range(count)]
    assert all(0 < len(batch) <= MAX_BATCH for batch in written)
    assert uses == {}


async def test_what_fails_is_left() -> None:
    """What was written before is not."""
    written: list[str] = []

    async def write(batch: Mapping[str, int]) -> None:
        if written:
            raise ConnectionError
        written.extend(batch)

    uses = {f"{number:05}": number for number in range(MAX_BATCH + 2)}
    with pytest.raises(ConnectionError):
        await write_in_batches(uses, write)
    assert len(written) == MAX_BATCH
    assert list(uses) == [f"{number:05}" for number in (MAX_BATCH, MAX_BATCH + 1)]
