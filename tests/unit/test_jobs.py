"""Long runs on a real store: how many at once, and what replicas that share the store do for each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pools.calls import Call, Program, Result
from pools.errors import PoolClosed, PoolOverloaded, ProgramError
from poolshift.worker.definitions import Definition, Signature
from routing.catalog.jobs import MAX_RESULT_BYTES, STALE_AFTER_S, Job, Jobs, JobStatus
from routing.errors import JobNotFound
from routing.router import Route
from routing.versions import Decision, Reason, Version
from store.database import Database
from store.job_store import SqlJobStore

pytestmark = pytest.mark.anyio

PROGRAM = Program("1", "a program", Definition("python", Signature((), ())))
RESULT = Result(msgspec.Raw(b"{}"), 0.0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")
    await database.migrate()
    yield database
    await database.aclose()


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[tuple[Jobs, Jobs]]:
    """Two that share a store, each with room for two jobs."""
    one, other = (Jobs(SqlJobStore(database), limit=2, ttl_s=3600) for _ in range(2))
    yield one, other
    for replica in (one, other):
        for live in await replica.page(None, limit=10, before=None):
            await replica.cancel(live.id)
        await replica.aclose()


async def start(jobs: Jobs, name: str, run: Callable[[], Awaitable[Result]] | None = None) -> Job:
    """A job of `run`, or of what never ends."""
    call = Call(name, PROGRAM, b"{}", deadline=0)
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


async def test_too_large_a_problem_is_not_kept(replicas: tuple[Jobs, Jobs]) -> None:
    """It is told that it was; a result has its test on a service."""
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
    """It asks by way of the store; the one that runs it hears of it when it next says that it lives."""
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


async def test_a_replica_that_falls_silent_has_died(database: Database, replicas: tuple[Jobs, Jobs]) -> None:
    """What it ran is interrupted by another, which leaves alone what a living one runs."""
    one, other = replicas
    await start(one, "living")
    silent_since = datetime.now(UTC) - timedelta(seconds=STALE_AFTER_S + 1)
    dead = Job("dead", "a program", None, JobStatus.QUEUED, silent_since)
    await SqlJobStore(database).add(dead)
    await other.open(is_shared=True)
    assert not (await other.show("dead")).status.is_over
    await other.sweep()
    assert (await other.show("dead")).status is JobStatus.INTERRUPTED
    assert not (await other.show("living")).status.is_over


async def test_a_living_one_has_the_last_word(replicas: tuple[Jobs, Jobs]) -> None:
    """A replica that was only slow writes how its job really ended."""
    one, other = replicas
    release = asyncio.Event()

    async def run() -> Result:
        await release.wait()
        return RESULT

    await start(one, "slow", run)
    await other.open(is_shared=False)  # interrupts whatever it finds
    assert (await other.show("slow")).status is JobStatus.INTERRUPTED
    await one.keep()
    release.set()
    assert (await over(one, "slow")).status is JobStatus.SUCCEEDED
    await one.keep()
    shown = await other.show("slow")
    assert (shown.status, shown.body) == (JobStatus.SUCCEEDED, b'{"ok":true}')


async def test_what_the_store_has_forgotten_is_not_run_on(database: Database, replicas: tuple[Jobs, Jobs]) -> None:
    """A session ended on another replica: its rows are gone, and what runs of it ends."""
    one, _ = replicas
    await start(one, "a")
    forgotten: Any = SqlJobStore(database)
    await forgotten.interrupt(None)
    await forgotten.forget(datetime.now(UTC) + timedelta(seconds=1))
    await one.keep()
    async with asyncio.timeout(20):
        while True:
            try:
                await one.show("a")
            except JobNotFound:
                break
            await asyncio.sleep(0)
