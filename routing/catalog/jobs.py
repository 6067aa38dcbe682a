"""Long runs: jobs that nobody waits for. They run here, and what is known of them is in the store for a while."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

import structlog

from common.tasks import TaskOwner
from pools.calls import Call, Result
from pools.errors import InvalidOutputs, PoolClosed, PoolOverloaded, ProgramError
from routing.catalog.owners import EVERYONE, Caller
from routing.catalog.quotas import DEFAULT_QUOTAS, Quotas, check_jobs
from routing.errors import JobNotFound, StoreUnavailable
from routing.router import Route
from routing.versions import Version

MAX_RESULT_BYTES = 1024 * 1024
"""Of a larger result or problem only the error is kept that it was too large."""
STALE_AFTER_S = 30.0
"""A replica that has not said for so long that it is at a job has died."""
CLOSE_TIMEOUT_S = 10.0
"""How long the end of the service waits for the last jobs, which end with the pools."""

_log = structlog.stdlib.get_logger("poolshift.jobs")


class JobStatus(StrEnum):
    """How far a long run has come. `interrupted` is one that the service, not its program, has ended."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Job:
    """A long run. `body` is what a synchronous call would have been answered with: its result, or its problem.

    `key` counts up with the jobs of all replicas; the store gives it.
    """

    id: str
    program_id: str
    session_id: str | None
    status: JobStatus
    created_at: datetime
    key: int = 0
    pool_version: Version | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    body: bytes | None = None
    owner: str | None = None


class JobStore(Protocol):
    """Where jobs are kept. Every method raises StoreUnavailable where the store does not answer."""

    async def add(self, job: Job) -> Job:
        """Keeps a new job, and gives it its key."""
        ...

    async def update(self, job: Job) -> None:
        """Writes how far a job has come, unless it was forgotten meanwhile."""
        ...

    async def find(self, execution_id: str) -> Job | None:
        """One job."""
        ...

    async def page(self, session_id: str | None, caller: Caller, *, limit: int, before: int | None) -> Sequence[Job]:
        """Up to `limit` jobs of a session, or of none, that `caller` may see: newest first, with keys under `before`.

        Bodies are left out.
        """
        ...

    async def ask_to_cancel(self, execution_id: str) -> None:
        """Tells the replica that runs it, whichever that is."""
        ...

    async def heartbeat(self, execution_ids: Collection[str]) -> Mapping[str, bool]:
        """Notes that these are still being run; those that are still kept, and whether each is to be cancelled."""
        ...

    async def interrupt(self, silent_since: datetime | None) -> int:
        """Marks as interrupted what nobody was at since then, or (None) what anybody was ever at; how many."""
        ...

    async def forget(self, ended_before: datetime) -> None:
        """Forgets what has ended before."""
        ...


@dataclass(slots=True, eq=False)
class _Live:
    """A job that this replica runs, or has still to write down the end of."""

    job: Job
    call: Call
    route: Route
    run: asyncio.Task[tuple[JobStatus, bytes]]
    is_cancelled: bool = False

    def look(self) -> Job:
        """The job at this moment."""
        if not self.job.status.is_over and self.call.dispatched_at > 0 and self.job.started_at is None:
            started_at = self.job.created_at + timedelta(seconds=self.call.queued_s)
            self.job = replace(self.job, status=JobStatus.RUNNING, started_at=started_at)
        return replace(self.job, pool_version=self.route.decision.version)

    def end(self) -> Job:
        """The job, whose run has ended."""
        if not self.run.cancelled():
            status, body = self.run.result()
        else:
            status, body = JobStatus.CANCELLED if self.is_cancelled else JobStatus.INTERRUPTED, None
        self.job = replace(self.look(), status=status, body=body, ended_at=datetime.now(UTC))
        return self.job


class Jobs:
    """Runs what is handed over, and answers for it until `ttl_s` after its end."""

    def __init__(self, store: JobStore, *, limit: int, ttl_s: float, quotas: Quotas = DEFAULT_QUOTAS) -> None:
        """At most `limit` jobs are queued or running here; `quotas` says how many of one session or owner."""
        self._quotas = quotas
        self._store = store
        self._limit = limit
        self.ttl_s = ttl_s
        self._live: dict[str, _Live] = {}
        self._adding: dict[str, Job] = {}
        """Jobs that the store is about to keep."""
        self._refuses = False
        self._tasks = TaskOwner("jobs")

    async def open(self, *, is_shared: bool) -> None:
        """What a run before this one left unfinished is interrupted.

        Where other replicas share the store, what is running may be theirs: `sweep` tells by their silence.
        """
        if not is_shared and (count := await self._store.interrupt(None)):
            _log.warning("jobs were interrupted by the end of the last run", count=count)

    def refuse(self) -> None:
        """From now on new jobs raise PoolClosed; those that were accepted go on."""
        self._refuses = True

    async def aclose(self) -> None:
        """Writes down how the last ones ended. To be called when the pools are closed."""
        self.refuse()
        if self._live:
            await asyncio.wait([live.run for live in self._live.values()], timeout=CLOSE_TIMEOUT_S)
        try:
            await self._save_the_ended()
        except StoreUnavailable as error:
            _log.error("how jobs ended is lost", count=len(self._live), reason=str(error))
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
    ) -> Job:
        """Runs `call` behind the caller's back, who may ask for it by its job's id.

        Args:
            run: brings the call to its result.
            answer: what a synchronous caller would get for the result.
            refuse: the same for an error.

        Raises:
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
        job = Job(call.execution_id, call.program.id, call.session_id, JobStatus.QUEUED, datetime.now(UTC), owner=owner)
        self._adding[job.id] = job
        try:
            job = await self._store.add(job)
        finally:
            del self._adding[job.id]
        live = _Live(job, call, route, self._tasks.start(_judged(run, answer, refuse)))
        self._live[job.id] = live
        self._tasks.start(self._follow(live))
        return live.look()

    def _check_quotas(self, session_id: str | None, owner: str | None) -> None:
        jobs = [*(live.job for live in self._live.values()), *self._adding.values()]
        of_session = sum(job.session_id == session_id for job in jobs) if session_id is not None else 0
        of_owner = sum(job.owner == owner for job in jobs) if owner is not None else 0
        check_jobs(self._quotas, of_session, of_owner)

    async def show(self, execution_id: str, caller: Caller = EVERYONE) -> Job:
        """Finds a job that `caller` may see.

        Raises:
            JobNotFound, StoreUnavailable.
        """
        live = self._live.get(execution_id)
        job = live.look() if live is not None else await self._store.find(execution_id)
        if job is None or not caller.may_see(job.owner):
            raise JobNotFound(execution_id)
        return job

    async def page(
        self, session_id: str | None, caller: Caller = EVERYONE, *, limit: int, before: int | None
    ) -> Sequence[Job]:
        """As `JobStore.page`."""
        found = await self._store.page(session_id, caller, limit=limit, before=before)
        return [self._live[one.id].look() if one.id in self._live else one for one in found]

    async def cancel(self, execution_id: str, caller: Caller = EVERYONE) -> Job:
        """Ends a job, its program too, unless it is over; on another replica it takes a moment.

        Raises:
            JobNotFound, StoreUnavailable.
        """
        job = await self.show(execution_id, caller)
        live = self._live.get(execution_id)
        if live is None:
            if not job.status.is_over:
                await self._store.ask_to_cancel(execution_id)
            return job
        self._cancel(live)
        await asyncio.wait({live.run})
        return live.end() if not live.job.status.is_over else live.look()

    def end_session(self, session_id: str) -> None:
        """A session has ended: the store has forgotten its jobs, and they end."""
        for live in [one for one in self._live.values() if one.job.session_id == session_id]:
            self._cancel(live)

    def _cancel(self, live: _Live) -> None:
        live.is_cancelled = True
        live.run.cancel()

    async def _follow(self, live: _Live) -> None:
        await asyncio.wait({live.run})
        try:
            await self._save(live)
        except StoreUnavailable as error:
            _log.warning("a job's end is kept in memory", execution_id=live.job.id, reason=str(error))

    async def _save(self, live: _Live) -> None:
        await self._store.update(live.look() if live.job.status.is_over else live.end())
        self._live.pop(live.job.id, None)

    # --- all of them

    async def keep(self) -> None:
        """What is to be done every second or so for those that run here. Raises StoreUnavailable."""
        await self._save_the_ended()
        await self._send_heartbeats()

    async def sweep(self) -> None:
        """What is to be done now and then for all there are, here or elsewhere. Raises StoreUnavailable."""
        now = datetime.now(UTC)
        await self._store.interrupt(now - timedelta(seconds=STALE_AFTER_S))
        await self._store.forget(now - timedelta(seconds=self.ttl_s))

    async def _save_the_ended(self) -> None:
        for live in [one for one in self._live.values() if one.run.done()]:
            await self._save(live)

    async def _send_heartbeats(self) -> None:
        running = [one for one in self._live.values() if not one.run.done()]
        for live in running:
            was = live.job.status
            if live.look().status is not was:
                await self._store.update(live.look())
        if running:
            kept = await self._store.heartbeat([live.job.id for live in running])
            for live in running:
                if kept.get(live.job.id, True):  # to be cancelled, or forgotten: its session has ended elsewhere
                    self._cancel(live)


async def _judged(
    run: Callable[[], Awaitable[Result]], answer: Callable[[Result], bytes], refuse: Callable[[Exception], bytes]
) -> tuple[JobStatus, bytes]:
    try:
        status, body = JobStatus.SUCCEEDED, answer(await run())
    except PoolClosed as error:
        status, body = JobStatus.INTERRUPTED, refuse(error)
    except Exception as error:
        status, body = JobStatus.FAILED, refuse(error)
    if len(body) <= MAX_RESULT_BYTES:
        return status, body
    limit = f"of {len(body)} bytes is over the limit of {MAX_RESULT_BYTES} for a long run"
    if status is JobStatus.SUCCEEDED:
        return JobStatus.FAILED, refuse(InvalidOutputs(f"a result {limit}"))
    return status, refuse(ProgramError(f"an error {limit}"))
