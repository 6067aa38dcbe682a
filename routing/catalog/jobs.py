"""Jobs: calls that run in the background after the response. The store keeps each job until `ttl_s` after its end.

Readers see a job as the store has it: nobody is told what a crash could take back. A reader who finds more in memory
has it stored first, and waits for that.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

import structlog

from common.shared_run import SharedRun
from common.tasks import TaskOwner
from pools.calls import Call, Result
from pools.errors import InvalidOutputs, PoolClosed, PoolOverloaded, ProgramError
from poolshift.worker.framing import MAX_FRAME_BYTES
from routing.catalog.idempotency import KeyedCall
from routing.catalog.job_events import JobEventLogs
from routing.catalog.owners import EVERYONE, Caller
from routing.catalog.quotas import DEFAULT_QUOTAS, Quotas, check_jobs
from routing.errors import JobNotFound, StoreUnavailable
from routing.router import Route
from routing.versions import Version

MAX_RESULT_BYTES = MAX_FRAME_BYTES + 64 * 1024
"""Limit of a result or problem: all that a worker can send, and the answer around it. A larger one fails the job."""
STALE_AFTER_S = 30.0
"""Silence after which a job's replica counts as dead, in seconds; each replica sends heartbeats every second."""
_REACHED_EVERY_S = 15.0
"""Longest time between two sweeps, in seconds, during which the database counts as reached all the time."""
CLOSE_TIMEOUT_S = 10.0
"""Longest wait for the last jobs at the end of the service, in seconds; the jobs end with the pools."""

_log = structlog.stdlib.get_logger("poolshift.jobs")


class JobStatus(StrEnum):
    """The progress of a job. The service, not the program, has ended an `interrupted` job. A final status is final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_over(self) -> bool:
        """True for a final status."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Job:
    """A job and its state. `body` is the answer that a synchronous call would have got: its result, or its problem.

    The store assigns `key`, which counts up over the jobs of all replicas. All times are by the store's clock.
    """

    id: str
    program_id: str
    session_id: str | None
    status: JobStatus
    created_at: datetime
    key: int
    pool_version: Version | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    body: bytes | None = None
    owner: str | None = None
    webhook: str | None = None
    """The URL that is told of the job's end."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is to be stored."""

    id: str
    program_id: str
    session_id: str | None
    pool_version: Version | None = None
    owner: str | None = None
    webhook: str | None = None


class JobStore(Protocol):
    """Keeps jobs. Every method raises StoreUnavailable if the store does not answer."""

    async def add(self, new: NewJob, keyed: Callable[[Job], KeyedCall] | None = None) -> Job:
        """Keeps a new job, which is queued. A call with an idempotency key is kept with it: `keyed` makes that.

        Raises:
            KeyTaken: another call has this idempotency key; the job is not kept.
        """
        ...

    async def update(self, job: Job) -> bool:
        """Writes the state of a job, unless the job is over in the store already, or forgotten; tells if it did."""
        ...

    async def find(self, execution_id: str) -> Job | None:
        """Reads one job; None if there is none."""
        ...

    async def page(self, session_id: str | None, caller: Caller, *, limit: int, before: int | None) -> Sequence[Job]:
        """Up to `limit` jobs of a session, or of none, that `caller` may see: newest first, with keys under `before`.

        Bodies are left out.
        """
        ...

    async def ask_to_cancel(self, execution_id: str) -> None:
        """Asks the replica that runs a job to cancel the job."""
        ...

    async def heartbeat(self, execution_ids: Collection[str]) -> Mapping[str, bool]:
        """Notes that this replica runs these jobs; returns, for each that is not over, whether to cancel the job."""
        ...

    async def interrupt(self, silent_for_s: float | None) -> int:
        """Marks jobs without a heartbeat for so long, or (None) all that are not over, as interrupted; their number."""
        ...

    async def forget(self, ended_for_s: float) -> None:
        """Forgets the jobs that ended so many seconds ago."""
        ...


class _Live:
    """A job that this replica runs, or whose end this replica has still to write."""

    def __init__(
        self,
        stored: Job,
        call: Call,
        route: Route,
        run: asyncio.Task[tuple[JobStatus, bytes]],
        write: "Callable[[_Live], Awaitable[None]]",
    ) -> None:
        self.stored = stored
        """The job as the store has it."""
        self.run: Final = run
        self.flush: Final = SharedRun(lambda: write(self))
        """Writes what the store does not know of the job, once for all who wait for that."""
        self.is_cancelled = False
        self._call = call
        self._route = route
        self._began = time.monotonic()
        self._ended: Job | None = None

    def now(self) -> Job:
        """Returns the job as it is, which the store may not know yet."""
        if self._ended is None and self.run.done():
            self._ended = self._end()
        return self._ended or self._progress()

    def _progress(self) -> Job:
        job = replace(self.stored, pool_version=self._route.decision.version)
        if self._call.dispatched_at <= 0 or job.started_at is not None:
            return job
        started_at = job.created_at + timedelta(seconds=self._call.queued_s)
        return replace(job, status=JobStatus.RUNNING, started_at=started_at)

    def _end(self) -> Job:
        if not self.run.cancelled():
            status, body = self.run.result()
        else:
            status, body = JobStatus.CANCELLED if self.is_cancelled else JobStatus.INTERRUPTED, None
        ended_at = self.stored.created_at + timedelta(seconds=time.monotonic() - self._began)
        return replace(self._progress(), status=status, body=body, ended_at=ended_at)


class Jobs:
    """Runs jobs, and answers for each until `ttl_s` after its end."""

    def __init__(self, store: JobStore, *, limit: int, ttl_s: float, quotas: Quotas = DEFAULT_QUOTAS) -> None:
        """At most `limit` jobs are queued or running here; `quotas` says how many of one session or owner."""
        self._quotas = quotas
        self._store = store
        self._limit = limit
        self.ttl_s = ttl_s
        self._live: dict[str, _Live] = {}
        self.events = JobEventLogs()
        self._adding: dict[str, NewJob] = {}
        """Jobs that the store is about to keep."""
        self._refuses = False
        self._reached_since: float | None = None
        self._last_sweep = 0.0
        self._tasks = TaskOwner("jobs")

    async def open(self, *, others_run: bool) -> None:
        """Marks the jobs that the last run of the service left unfinished as interrupted.

        If other replicas run, such a job may be one of theirs: `sweep` tells by its silence.
        """
        if not others_run and (count := await self._store.interrupt(None)):
            _log.warning("jobs were interrupted by the end of the last run", count=count)

    def refuse(self) -> None:
        """Refuses new jobs with PoolClosed from now on; accepted jobs go on."""
        self._refuses = True

    async def aclose(self) -> None:
        """Writes the end of the last jobs. Call this after the pools are closed."""
        self.refuse()
        if self._live:
            await asyncio.wait([live.run for live in self._live.values()], timeout=CLOSE_TIMEOUT_S)
        try:
            await self._flush_the_ended()
        except StoreUnavailable as error:
            _log.error("the ends of jobs are lost", count=len(self._live), reason=str(error))
        await self._tasks.aclose()

    # --- one job

    async def start(
        self,
        route: Route,
        call: Call,
        run: Callable[[], Awaitable[Result]],
        answer: Callable[[Result], bytes],
        refuse: Callable[[Exception], bytes],
        owner: str | None = None,
        keyed: Callable[[Job], KeyedCall] | None = None,
        webhook: str | None = None,
    ) -> Job:
        """Runs `call` in the background after the response; the caller may ask for the job by its id.

        Args:
            route: the version of the call.
            call: the call, whose execution id becomes the job's id.
            run: brings the call to its result.
            answer: makes the body that a synchronous caller would get for the result.
            refuse: makes the body for an error.
            owner: owns the job.
            keyed: makes the keyed call with its answer, if the call came with an idempotency key.
            webhook: the URL that is told of the job's end.

        Raises:
            KeyTaken: another call with this idempotency key was faster.
            PoolClosed: the service is ending.
            PoolOverloaded: too many are queued or running.
            QuotaExceeded: too many of this session, or of this owner, are.
            StoreUnavailable: it could not be remembered, and does not run.
        """
        if self._refuses:
            raise PoolClosed
        if len(self._live) + len(self._adding) >= self._limit:
            raise PoolOverloaded(f"{self._limit} jobs are queued or running", retry_after_s=1.0)
        self._check_quotas(call.session_id, owner)
        version = route.decision.version
        new = NewJob(call.execution_id, call.program.id, call.session_id, version, owner, webhook)
        self._adding[new.id] = new
        try:
            job = await self._store.add(new, keyed)
        finally:
            del self._adding[new.id]
        events = self.events.open(job.id)
        if not call.program.uses_lm:
            call.events = events  # with one, the LM would stream
        live = _Live(job, call, route, self._tasks.start(_judged(run, answer, refuse)), self._write)
        self._live[job.id] = live
        self._tasks.start(self._follow(live))
        return job

    def _check_quotas(self, session_id: str | None, owner: str | None) -> None:
        running = [live.stored for live in self._live.values() if not live.run.done()]
        jobs: list[Job | NewJob] = [*running, *self._adding.values()]
        of_session = sum(job.session_id == session_id for job in jobs) if session_id is not None else 0
        of_owner = sum(job.owner == owner for job in jobs) if owner is not None else 0
        check_jobs(self._quotas, of_session, of_owner)

    async def show(self, execution_id: str, caller: Caller = EVERYONE) -> Job:
        """Finds a job that `caller` may see.

        Raises:
            JobNotFound, StoreUnavailable.
        """
        job = await self._stored(execution_id)
        if job is None or not caller.may_see(job.owner):
            raise JobNotFound(execution_id)
        return job

    async def _stored(self, execution_id: str) -> Job | None:
        """The job as the store has it, after an attempt to write what is new of it."""
        if (live := self._live.get(execution_id)) is not None:
            with suppress(StoreUnavailable):
                await live.flush()
        if (live := self._live.get(execution_id)) is not None:
            return live.stored
        return await self._store.find(execution_id)

    async def page(
        self, session_id: str | None, caller: Caller = EVERYONE, *, limit: int, before: int | None
    ) -> Sequence[Job]:
        """As `JobStore.page`."""
        return await self._store.page(session_id, caller, limit=limit, before=before)

    async def cancel(self, execution_id: str, caller: Caller = EVERYONE) -> Job:
        """Ends a job, its program too, unless it is over; on another replica it takes a moment.

        Raises:
            JobNotFound: also if its session has ended meanwhile.
            StoreUnavailable: also if the job has ended, and its end is not stored yet.
        """
        live = self._live.get(execution_id)
        if live is not None and caller.may_see(live.stored.owner):
            await self.cancel_here(execution_id)
            return await self.show(execution_id, caller)
        job = await self.show(execution_id, caller)
        if not job.status.is_over:
            await self._store.ask_to_cancel(execution_id)
        return job

    async def cancel_here(self, execution_id: str) -> None:
        """Ends a job that this replica runs, and stores that; any other it leaves alone. Raises StoreUnavailable."""
        live = self._live.get(execution_id)
        if live is not None:
            self._cancel(live)
            await asyncio.wait({live.run})
            await live.flush()

    def end_session(self, session_id: str) -> None:
        """Ends the jobs of a session that has ended, which the store has forgotten."""
        for live in [one for one in self._live.values() if one.stored.session_id == session_id]:
            self._cancel(live)
            self._drop(live)

    def _cancel(self, live: _Live) -> None:
        live.is_cancelled = True
        live.run.cancel()

    def _drop(self, live: _Live) -> None:
        """Leaves a job to the store, which knows its end or has forgotten it. Nobody waits for events any more."""
        self._live.pop(live.stored.id, None)
        self.events.close(live.stored.id)

    async def _follow(self, live: _Live) -> None:
        await asyncio.wait({live.run})
        try:
            await live.flush()
        except StoreUnavailable as error:
            _log.warning("a job's end is kept in memory", execution_id=live.stored.id, reason=str(error))

    async def _write(self, live: _Live) -> None:
        job = live.now()
        if job == live.stored:
            return
        if not await self._store.update(job):  # its session has ended, or another replica took this one for dead
            self._cancel(live)
            self._drop(live)
        elif job.status.is_over:
            self._drop(live)
        else:
            live.stored = job

    # --- all of them

    async def keep(self) -> None:
        """Sends heartbeats for the jobs that run here and writes the ends of those that have ended.

        Call this every second. Raises StoreUnavailable.
        """
        try:
            await self._send_heartbeats()
        finally:
            await self._flush_the_ended()

    async def sweep(self) -> None:
        """Interrupts the jobs of replicas that are dead, and forgets old ones. Raises StoreUnavailable.

        After an outage of the database, no replica could send heartbeats for a while. So silence counts only once this
        replica has reached the database for `STALE_AFTER_S` without a break, in which every living replica can too.
        """
        await self._store.forget(self.ttl_s)
        if self._has_reached_the_store():
            await self._store.interrupt(STALE_AFTER_S)

    def _has_reached_the_store(self) -> bool:
        """Notes that the store was reached; tells whether it has been for `STALE_AFTER_S` without a break."""
        now = time.monotonic()
        if self._reached_since is None or now - self._last_sweep > _REACHED_EVERY_S:
            self._reached_since = now
        self._last_sweep = now
        return now - self._reached_since >= STALE_AFTER_S

    async def _flush_the_ended(self) -> None:
        failure: Exception | None = None
        for live in [one for one in self._live.values() if one.run.done()]:
            try:
                await live.flush()
            except StoreUnavailable:
                raise
            except Exception as error:  # of this job; the others are written all the same
                failure = error
        if failure is not None:
            raise failure

    async def _send_heartbeats(self) -> None:
        running = [one for one in self._live.values() if not one.run.done()]
        if not running:
            return
        kept = await self._store.heartbeat([live.stored.id for live in running])
        for live in running:
            is_to_be_cancelled = kept.get(live.stored.id)
            if is_to_be_cancelled is None:  # its session has ended elsewhere, or another replica took this one for dead
                self._cancel(live)
                self._drop(live)
            elif is_to_be_cancelled:
                self._cancel(live)
            else:
                await live.flush()


async def _judged(
    run: Callable[[], Awaitable[Result]], answer: Callable[[Result], bytes], refuse: Callable[[Exception], bytes]
) -> tuple[JobStatus, bytes]:
    try:
        status, body = JobStatus.SUCCEEDED, answer(await run())
    except PoolClosed as error:
        status, body = JobStatus.INTERRUPTED, refuse(error)
    except Exception as error:
        status, body = JobStatus.FAILED, refuse(error)
    if (flaw := _flaw(body)) is None:
        return status, body
    if status is JobStatus.SUCCEEDED:
        return JobStatus.FAILED, refuse(InvalidOutputs(f"a result {flaw}"))
    return status, refuse(ProgramError(f"an error {flaw}"))


def _flaw(body: bytes) -> str | None:
    """The reason why the store cannot keep `body`, which a program may have forged; None if the store can."""
    if len(body) > MAX_RESULT_BYTES:
        return f"of {len(body)} bytes is over the limit of {MAX_RESULT_BYTES} for a job"
    try:
        return "with a NUL cannot be kept" if "\x00" in body.decode() else None
    except UnicodeDecodeError:
        return "that is not UTF-8 cannot be kept"
