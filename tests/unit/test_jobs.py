"""Long runs on a real store: how many at once, and what replicas that share the store do for each other."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from pools.calls import Call, Program, Result
from pools.errors import PoolClosed, PoolOverloaded, ProgramError
from poolshift.worker.definitions import Definition, Signature
from routing.catalog import jobs as jobs_module
from routing.catalog.jobs import MAX_RESULT_BYTES, STALE_AFTER_S, Job, Jobs, JobStatus, NewJob
from routing.catalog.quotas import Quotas
from routing.errors import JobNotFound, QuotaExceeded, StoreUnavailable
from routing.router import Route
from routing.versions import Decision, Reason, Version
from store.clock import moment
from store.database import Database
from store.job_store import SqlJobStore
from store.tables import executions

pytestmark = pytest.mark.anyio

PROGRAM = Program("1", "a program", Definition("python", Signature((), ())))
RESULT = Result(msgspec.Raw(b"{}"), 0.0)


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[tuple[Jobs, Jobs]]:
    """Two that share a store, each with room for two jobs."""
    one, other = (Jobs(SqlJobStore(database), limit=2, ttl_s=3600) for _ in range(2))
    yield one, other
    for replica in (one, other):
        for live in await replica.page(None, limit=10, before=None):
            await replica.cancel(live.id)
        await replica.aclose()


class Clock:
    """A clock of the sweeps that the test moves."""

    def __init__(self) -> None:
        self.now = float(int(time.monotonic()))  # whole seconds, so that sums are exact

    async def sweep_for(self, jobs: Jobs, seconds: float) -> None:
        """Has `jobs` sweep every 10 s for so long."""
        end = self.now + seconds
        await jobs.sweep()
        while self.now < end:
            self.now += 10
            await jobs.sweep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(jobs_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


async def start(
    jobs: Jobs, name: str, run: Callable[[], Awaitable[Result]] | None = None, session_id: str | None = None
) -> Job:
    """A job of `run`, or of what never ends."""
    call = Call(name, PROGRAM, b"{}", deadline=0, session_id=session_id)
    route = Route(0, None, Decision(Version.V1, Reason.SPLIT))

    async def for_ever() -> Result:
        call.dispatched_at = 1.0
        await asyncio.Event().wait()
        return RESULT

    return await jobs.start(route, call, run or for_ever, lambda _: b'{"ok":true}', lambda error: str(error).encode())


async def over(jobs: Jobs, name: str) -> Job:
    """The job when it is over, as `jobs` has it from the store or from its memory."""
    async with asyncio.timeout(20):
        while not (job := await jobs.show(name)).status.is_over:
            await jobs.keep()
            await asyncio.sleep(0)
    return job


async def test_only_so_many_at_once(replicas: tuple[Jobs, Jobs]) -> None:
    """Each replica has its own limit, and one that ends makes room."""
    one, other = replicas
    for name in ("a", "b"):
        assert (await start(one, name)).status is JobStatus.QUEUED
    with pytest.raises(PoolOverloaded):
        await start(one, "c")
    await start(other, "d")
    assert (await one.cancel("a")).status is JobStatus.CANCELLED
    await over(one, "a")
    await one.keep()
    await start(one, "e")
    one.refuse()
    with pytest.raises(PoolClosed):
        await start(one, "f")


async def test_a_job_that_has_ended_uses_no_quota(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next may start, even if the store does not know of the end yet; and nobody is told of that before."""
    jobs = Jobs(SqlJobStore(database), limit=5, ttl_s=3600, quotas=Quotas(jobs_per_session=1))
    with monkeypatch.context() as patched:
        patched.setattr(SqlJobStore, "update", _does_not_answer)
        await start(jobs, "a", session_id="s")
        with pytest.raises(StoreUnavailable):
            await jobs.cancel("a")
        assert (await jobs.show("a")).status is JobStatus.QUEUED
        await start(jobs, "b", session_id="s")
        with pytest.raises(QuotaExceeded):
            await start(jobs, "c", session_id="s")
    assert [(await jobs.cancel(name)).status for name in ("a", "b")] == [JobStatus.CANCELLED] * 2
    await jobs.aclose()


async def _does_not_answer(*_: object) -> None:
    raise StoreUnavailable("it does not answer")


async def test_too_large_a_problem_is_not_kept(replicas: tuple[Jobs, Jobs]) -> None:
    """The job shows that its error was too large; a result has its test on a service."""
    one, _ = replicas

    async def fail() -> Result:
        raise ProgramError("z" * (MAX_RESULT_BYTES + 1))

    await start(one, "a", fail)
    ended = await over(one, "a")
    assert ended.status is JobStatus.FAILED
    assert ended.body is not None
    assert ended.body.startswith(b"an error of")
    assert b"over the limit" in ended.body


async def test_a_replica_cancels_what_another_runs(replicas: tuple[Jobs, Jobs]) -> None:
    """The request goes through the store; the running replica sees it at its next heartbeat."""
    one, other = replicas
    await start(one, "a")
    assert not (await other.cancel("a")).status.is_over
    await one.keep()
    assert (await over(other, "a")).status is JobStatus.CANCELLED
    with pytest.raises(JobNotFound):
        await other.cancel("nothing")


async def test_another_replica_sees_that_it_runs(replicas: tuple[Jobs, Jobs]) -> None:
    one, other = replicas
    await start(one, "a")
    await asyncio.sleep(0)  # it begins
    await one.keep()
    shown = await other.show("a")
    assert (shown.status, shown.pool_version) == (JobStatus.RUNNING, Version.V1)
    assert shown.started_at is not None
    assert [each.id for each in await other.page(None, limit=10, before=None)] == ["a"]
    assert await other.page("a session", limit=10, before=None) == []


async def test_a_replica_that_falls_silent_has_died(
    database: Database, replicas: tuple[Jobs, Jobs], clock: Clock
) -> None:
    """Another replica interrupts the jobs of a silent one, and leaves those of a living one alone."""
    one, other = replicas
    await start(one, "living")
    await _add_silent(database, "dead", STALE_AFTER_S + 1)
    await other.open(others_run=True)
    assert not (await other.show("dead")).status.is_over
    await clock.sweep_for(other, STALE_AFTER_S)
    assert (await other.show("dead")).status is JobStatus.INTERRUPTED
    assert not (await other.show("living")).status.is_over


async def _add_silent(database: Database, name: str, silent_s: float) -> None:
    """A job whose replica has said nothing for so long."""
    await SqlJobStore(database).add(NewJob(name, "a program", None))
    async with database.transaction() as connection:
        silent = update(executions).where(executions.c.id == name)
        await connection.execute(silent.values(alive_at=moment(connection, -silent_s)))


@pytest.mark.parametrize("outage_s", [16.0, 36.0, 3600.0])
async def test_silence_counts_only_while_the_database_is_reached(
    database: Database, replicas: tuple[Jobs, Jobs], clock: Clock, outage_s: float
) -> None:
    """After an outage in which no replica could send heartbeats, each has the whole time again to send one."""
    _, other = replicas
    await clock.sweep_for(other, 2 * STALE_AFTER_S)
    await _add_silent(database, "silent", STALE_AFTER_S + outage_s)
    clock.now += outage_s
    await clock.sweep_for(other, STALE_AFTER_S - 10)
    assert not (await other.show("silent")).status.is_over
    await clock.sweep_for(other, 10)
    assert (await other.show("silent")).status is JobStatus.INTERRUPTED


@pytest.mark.parametrize("is_heard_first", [True, False])
async def test_a_final_status_is_final(replicas: tuple[Jobs, Jobs], *, is_heard_first: bool) -> None:
    """A replica that another took for dead changes nothing, whether its heartbeat or its job's end comes first."""
    one, other = replicas
    release = asyncio.Event()

    async def run() -> Result:
        await release.wait()
        return RESULT

    await start(one, "slow", run)
    await other.open(others_run=False)  # interrupts whatever it finds
    interrupted = await other.show("slow")
    assert interrupted.status is JobStatus.INTERRUPTED
    if is_heard_first:
        await one.keep()
        assert await one.show("slow") == interrupted
    release.set()
    async with asyncio.timeout(20):
        while "slow" in one._live:
            await one.keep()
            await asyncio.sleep(0)
    assert await one.show("slow") == await other.show("slow") == interrupted


@pytest.mark.parametrize(
    ("body", "why"),
    [(b'{"result": "\xff"}', b"not UTF-8"), (b'{"result": "\x00"}', b"NUL"), (b"\xed\xa0\x80", b"not UTF-8")],
)
async def test_a_result_that_no_store_takes_fails_its_job(replicas: tuple[Jobs, Jobs], body: bytes, why: bytes) -> None:
    """A forged frame may hold anything: the job ends with the reason, in the store too."""
    one, other = replicas
    route = Route(0, None, Decision(Version.V1, Reason.SPLIT))

    async def run() -> Result:
        return RESULT

    call = Call("forged", PROGRAM, b"{}", deadline=0)
    await one.start(route, call, run, lambda _: body, lambda error: str(error).encode())
    ended = await over(other, "forged")
    assert ended.status is JobStatus.FAILED
    assert why in (ended.body or b"")


@pytest.mark.parametrize("error", [RuntimeError("no"), OverflowError(), UnicodeDecodeError("utf-8", b"", 0, 1, "no")])
async def test_a_job_that_cannot_be_written_holds_up_no_other(database: Database, error: Exception) -> None:
    """After an outage the others' ends reach the store, although one's end never does."""

    class Store(SqlJobStore):
        is_away = True

        async def update(self, job: Job) -> bool:
            if self.is_away:
                raise StoreUnavailable("away")
            if job.id == "bad":
                raise error
            return await super().update(job)

    async def run() -> Result:
        return RESULT

    store = Store(database)
    jobs = Jobs(store, limit=3, ttl_s=3600)
    for name in ("bad", "good", "good too"):
        await start(jobs, name, run)
    await asyncio.wait([live.run for live in jobs._live.values()])
    store.is_away = False
    with pytest.raises(type(error)):
        await jobs.keep()
    assert list(jobs._live) == ["bad"]
    for name in ("good", "good too"):
        found = await store.find(name)
        assert found is not None
        assert found.status is JobStatus.SUCCEEDED


async def test_what_the_store_has_forgotten_is_not_run_on(database: Database, replicas: tuple[Jobs, Jobs]) -> None:
    """A session ended on another replica: its rows are gone, and what runs of it ends."""
    one, _ = replicas
    await start(one, "a")
    forgotten: Any = SqlJobStore(database)
    await forgotten.interrupt(None)
    await forgotten.forget(-1)
    await one.keep()
    async with asyncio.timeout(20):
        while True:
            try:
                await one.show("a")
            except JobNotFound:
                break
            await asyncio.sleep(0)
