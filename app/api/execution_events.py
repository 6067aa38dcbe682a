"""`GET /executions/{id}` as server-sent events. A client that lost its connection goes on with `Last-Event-ID`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

from app.execute.streaming import HEARTBEAT_S, LINGER_S, format_event
from app.problems import problem_of
from routing.catalog.job_events import JobEvents
from routing.catalog.jobs import Job, Jobs, JobStatus
from routing.errors import JobNotFound

END_ID: Final = "end"
"""The id of the last event of every job."""
_POLL_S: Final = 1.0
"""Time between two looks at a job that another replica runs."""
_HEARTBEAT: Final = b": heartbeat\n\n"
_log = structlog.stdlib.get_logger("poolshift.http")


class EventResponse(StreamingResponse):
    """A stream that ends if its client does not read it."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Sends each part within the time that a client has to read it."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(LINGER_S):
                await send(message)

        try:
            await super().stream_response(send_in_time)
        except TimeoutError:
            _log.warning("a client did not read the rest of its stream")


class JobStream:
    """The events of one job, from the one after `Last-Event-ID` on, for one client."""

    def __init__(
        self,
        jobs: Jobs,
        show: Callable[[Job], bytes],
        last_event_id: str | None,
        is_draining: Callable[[], bool],
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """`show` is the job as the client may see it, as JSON."""
        self._jobs = jobs
        self._show = show
        self._is_draining = is_draining
        self._number = _number(last_event_id)
        self._heartbeat_s = heartbeat_s
        self._is_cut = False
        """Set if this replica ends before the job, which another replica runs."""

    async def parts(self, job: Job) -> AsyncIterator[bytes]:
        """Sends what was missed and what comes, then the job's end. Says so if events are no longer kept."""
        log = self._jobs.events.find(job.id)
        if log is None:
            yield _event(None, "gap", {"missed": None})
            parts = self._until_over_elsewhere(job)
        else:
            if self._number > log.last:
                self._number = 0  # an id that this job has never had
            parts = self._until_over(log)
        async for part in parts:
            yield part
        if self._is_cut:
            return
        try:
            yield _end(await self._jobs.show(job.id), self._show)
        except JobNotFound as error:  # its session has ended
            yield _format(END_ID, "error", problem_of(error).body())

    async def _until_over(self, log: JobEvents) -> AsyncIterator[bytes]:
        while True:
            missed, events = log.after(self._number)
            if missed:
                yield _event(None, "gap", {"missed": missed})
            if events:
                self._number = events[-1].number
                yield b"".join(_format(str(event.number), event.name, event.data) for event in events)
            elif log.is_over:
                return
            if not await log.changed(self._number, self._heartbeat_s):
                yield _HEARTBEAT

    async def _until_over_elsewhere(self, job: Job) -> AsyncIterator[bytes]:
        quiet_s, status = 0.0, None
        while not job.status.is_over:
            if self._is_draining():
                self._is_cut = True
                return
            if job.status is not status:
                status, quiet_s = job.status, 0.0
                yield _event(None, "status", {"status": status})
            await asyncio.sleep(_POLL_S)
            quiet_s += _POLL_S
            if quiet_s >= self._heartbeat_s:
                quiet_s = 0.0
                yield _HEARTBEAT
            try:
                job = await self._jobs.show(job.id)
            except JobNotFound:
                return


def _end(job: Job, show: Callable[[Job], bytes]) -> bytes:
    """The last event: the result or the problem of the job; if it has neither, the job itself by its status."""
    if job.body is None:
        return _format(END_ID, job.status, show(job))
    name = "result" if job.status is JobStatus.SUCCEEDED else "error"
    shown = msgspec.json.decode(show(job), type=dict[str, msgspec.Raw])
    return _format(END_ID, name, bytes(shown["result" if name == "result" else "problem"]))


def _number(last_event_id: str | None) -> int:
    return int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdecimal() else 0


def _event(number: int | None, name: str, data: object) -> bytes:
    return _format(None if number is None else str(number), name, msgspec.json.encode(data))


def _format(event_id: str | None, name: str, data: bytes) -> bytes:
    event = format_event(name, data)
    return event if event_id is None else b"id: %s\n%s" % (event_id.encode(), event)
