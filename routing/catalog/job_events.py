"""The latest events of jobs, numbered, so that a listener that lost its connection goes on where it was.

A job runs on whether anybody listens or not: its events never hold its program up. The oldest are dropped instead.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Final, NamedTuple

import msgspec

from pools.events import EventSource
from poolshift.worker.messages import EventKind

MAX_EVENTS: Final = 256
MAX_BYTES: Final = 256 * 1024
"""Limits of the events of one job. The newest event is kept, however large it is."""
MAX_BYTES_OF_ENDED: Final = 16 * 1024 * 1024
MAX_ENDED: Final = 256
"""Limits of the events of all jobs that have ended."""


class JobEvent(NamedTuple):
    """An event with its number in the job, from 1 on."""

    number: int
    name: str
    data: bytes


class JobEvents:
    """The latest events of one job: the sink of its call."""

    has_taken = False
    """Always false: a call that is run again sends its events again, with new numbers, after another `status`."""

    def __init__(self) -> None:
        self.size = 0
        self.last = 0
        """The number of the newest event."""
        self.is_over = False
        self._events: deque[JobEvent] = deque()
        self._listeners: set[asyncio.Event] = set()

    # --- for the pool

    def began(self, source: EventSource) -> None:
        self._add("status", b'{"status":"running"}')

    def put(self, kind: EventKind, data: msgspec.Raw) -> None:
        self._add(kind, bytes(data))

    def end(self) -> None:
        """Notes that no event follows."""
        self.is_over = True
        self._wake()

    def _add(self, name: str, data: bytes) -> None:
        self.last += 1
        self._events.append(JobEvent(self.last, name, data))
        self.size += len(data)
        while len(self._events) > MAX_EVENTS or (self.size > MAX_BYTES and len(self._events) > 1):
            self.size -= len(self._events.popleft().data)
        self._wake()

    def _wake(self) -> None:
        for listener in self._listeners:
            listener.set()

    # --- for a listener

    def after(self, number: int) -> tuple[int, list[JobEvent]]:
        """Returns how many events after `number` are no longer kept, and those that are."""
        events = [event for event in self._events if event.number > number]
        first = events[0].number if events else self.last + 1
        return max(0, first - number - 1), events

    async def changed(self, number: int, timeout_s: float) -> bool:
        """Waits for an event after `number`, or the end; False if neither comes within `timeout_s`."""
        if self.last > number or self.is_over:
            return True
        listener = asyncio.Event()
        self._listeners.add(listener)
        try:
            async with asyncio.timeout(timeout_s):
                await listener.wait()
        except TimeoutError:
            return False
        finally:
            self._listeners.discard(listener)
        return True


class JobEventLogs:
    """The events of the jobs that run on this replica, and of the latest that have."""

    def __init__(self) -> None:
        self._running: dict[str, JobEvents] = {}
        self._ended: OrderedDict[str, JobEvents] = OrderedDict()
        self._size_of_ended = 0

    def open(self, job_id: str) -> JobEvents:
        """Makes the log of a job that begins."""
        log = self._running[job_id] = JobEvents()
        return log

    def find(self, job_id: str) -> JobEvents | None:
        """Returns the log of a job; None if it runs elsewhere, or has ended long ago."""
        return self._running.get(job_id) or self._ended.get(job_id)

    def close(self, job_id: str) -> None:
        """Ends the log of a job, and drops the oldest of those that have ended if they are too many or too large."""
        log = self._running.pop(job_id, None)
        if log is None:
            return
        log.end()
        self._ended[job_id] = log
        self._size_of_ended += log.size
        while self._size_of_ended > MAX_BYTES_OF_ENDED or len(self._ended) > MAX_ENDED:
            self._size_of_ended -= self._ended.popitem(last=False)[1].size
