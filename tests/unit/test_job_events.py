"""The logs of jobs' events: bounded, numbered, and honest about what they no longer have."""

import asyncio
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.catalog import job_events
from routing.catalog.job_events import MAX_BYTES, MAX_EVENTS, JobEventLogs, JobEvents


@given(st.lists(st.integers(1, 2 * MAX_BYTES // 10), max_size=MAX_EVENTS + 100), st.integers(0, MAX_EVENTS + 200))
def test_a_listener_gets_each_event_or_is_told_that_it_is_gone(sizes: list[int], number: int) -> None:
    """The missed ones and those that are kept are all after `number`, without a gap and without a repetition."""
    log = JobEvents()
    for size in sizes:
        log.put("progress", msgspec.Raw(b"1" * size))
        assert log.size <= MAX_BYTES or len(log.after(0)[1]) == 1
    missed, events = log.after(number)
    numbers = [event.number for event in events]
    assert len(events) <= MAX_EVENTS
    assert numbers == list(range(number + missed + 1, len(sizes) + 1))
    assert all(len(event.data) == sizes[event.number - 1] for event in events)


def test_the_logs_of_ended_jobs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and by bytes; the oldest go first, and a job that runs is never dropped."""
    monkeypatch.setattr(job_events, "MAX_BYTES_OF_ENDED", 100)
    monkeypatch.setattr(job_events, "MAX_ENDED", 5)
    logs = JobEventLogs()
    running = logs.open("running")
    for number in range(10):
        logs.open(str(number)).put("progress", msgspec.Raw(b"1" * (60 if number == 9 else 10)))
        logs.close(str(number))
    kept = [number for number in range(10) if logs.find(str(number)) is not None]
    assert kept == [5, 6, 7, 8, 9]
    logs.open("large").put("progress", msgspec.Raw(b"1" * 60))
    logs.close("large")
    assert [number for number in range(10) if logs.find(str(number)) is not None] == []
    assert logs.find("large") is not None
    assert logs.find("running") is running
    logs.close("never opened")


def test_a_listener_is_woken() -> None:
    """By an event, by the end, and by neither: it goes on after its time."""

    async def run() -> None:
        log = JobEvents()
        assert not await log.changed(0, 0.001)
        waits = asyncio.create_task(log.changed(0, 60))
        await asyncio.sleep(0)
        log.began(cast("Any", None))
        assert await waits
        assert await log.changed(0, 0)
        waits = asyncio.create_task(log.changed(1, 60))
        await asyncio.sleep(0)
        log.end()
        assert await waits
        assert not log._listeners

    asyncio.run(run())
