"""Counts in memory are written once, even if a write fails."""

from collections.abc import Mapping

import pytest

from routing.catalog.write_behind import MAX_BATCH, Used, write_in_batches

pytestmark = pytest.mark.anyio


class Counter:
    """The simplest thing that is used."""

    def __init__(self, number: int) -> None:
        self.key = f"{number:05}"
        self.is_dirty = True
        self.count = 1

    def take_use(self) -> int:
        use, self.count = self.count, 0
        return use

    def give_back_use(self, use: int) -> None:
        self.count += use


def counters(count: int) -> list[Used[int]]:
    return [Counter(number) for number in reversed(range(count))]


@pytest.mark.parametrize("count", [0, 1, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1, 3 * MAX_BATCH])
async def test_all_is_written_in_order_and_in_bounds(count: int) -> None:
    """No batch is over the limit, and nothing is left."""
    written: list[dict[str, int]] = []

    async def write(batch: Mapping[str, int]) -> None:
        written.append(dict(batch))

    unwritten = counters(count)
    everything = list(unwritten)
    await write_in_batches(unwritten, write)
    assert [one for batch in written for one in batch.items()] == [(f"{number:05}", 1) for number in range(count)]
    assert all(0 < len(batch) <= MAX_BATCH for batch in written)
    assert unwritten == []
    assert not any(one.is_dirty for one in everything)


async def test_what_fails_is_left() -> None:
    """A batch that fails stays dirty; the batches written before do not."""
    written: dict[str, int] = {}

    async def write(batch: Mapping[str, int]) -> None:
        if written:
            raise ConnectionError
        written.update(batch)

    unwritten = counters(2 * MAX_BATCH + 2)
    with pytest.raises(ConnectionError):
        await write_in_batches(unwritten, write)
    assert len(written) == MAX_BATCH
    assert all(one.is_dirty for one in unwritten)
    written.clear()
    left = {one.key for one in unwritten}
    assert left == {f"{number:05}" for number in range(MAX_BATCH, 2 * MAX_BATCH + 2)}


async def test_what_is_used_while_it_is_written_is_written_the_next_time() -> None:
    """Once, and with what was counted before where that could not be written."""
    one = Counter(1)
    unwritten: list[Used[int]] = [one]
    written: list[dict[str, int]] = []

    async def fail(batch: Mapping[str, int]) -> None:
        one.count += 2
        one.is_dirty = True
        unwritten.append(one)
        raise ConnectionError

    async def write(batch: Mapping[str, int]) -> None:
        written.append(dict(batch))

    with pytest.raises(ConnectionError):
        await write_in_batches(unwritten, fail)
    await write_in_batches(unwritten, write)
    assert written == [{"00001": 3}]


@pytest.mark.parametrize("ended", [1, MAX_BATCH + 1, 2 * MAX_BATCH])
async def test_what_has_ended_is_not_written(ended: int) -> None:
    """A session that is gone would be there again. A batch of nothing else is none."""
    unwritten = counters(2 * MAX_BATCH)
    for one in unwritten[-ended:]:
        one.is_dirty = False
    written: list[str] = []

    async def write(batch: Mapping[str, int]) -> None:
        assert batch
        written.extend(batch)

    await write_in_batches(unwritten, write)
    assert written == [f"{number:05}" for number in range(ended, 2 * MAX_BATCH)]


async def test_two_of_one_key_are_written_one_after_the_other() -> None:
    """A program that was read anew from the store is in memory twice: what both counted is written."""
    first, second, third = (Counter(1) for _ in range(3))
    second.count = 5
    unwritten: list[Used[int]] = [first, second, third, *counters(MAX_BATCH)]
    written: list[dict[str, int]] = []

    async def fail(batch: Mapping[str, int]) -> None:
        raise ConnectionError

    async def write(batch: Mapping[str, int]) -> None:
        written.append(dict(batch))

    with pytest.raises(ConnectionError):
        await write_in_batches(unwritten, fail)
    assert (first.count, second.count, third.count) == (1, 5, 1)
    await write_in_batches(unwritten, write)
    assert sorted(one["00001"] for one in written if "00001" in one) == [1, 1, 1, 5]
    assert sum(count for batch in written for count in batch.values()) == MAX_BATCH + 7
    assert unwritten == []
