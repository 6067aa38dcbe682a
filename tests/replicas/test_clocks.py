"""Two replicas whose machines' clocks differ by 90 s share one PostgreSQL: only the database's clock counts."""

import asyncio
import concurrent.futures
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from routing.catalog.jobs import STALE_AFTER_S, NewJob
from store.clock import moment
from store.database import Database
from store.job_store import SqlJobStore
from store.tables import executions
from tests.conftest import StartService
from tests.replicas.conftest import Postgres
from tests.service.test_async_executions import HOLD, end_of, running, show, start
from tests.service.test_errors import problem
from tests.service.test_idempotency import held, keyed, same
from tests.support.replicas import COUNT
from tests.support.service import Service
from tests.support.waiting import wait_until

SHIFT_S = 90
SESSION_TTL_S = 60
_PRELOADED = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), Path("nowhere"))

pytestmark = pytest.mark.faketime


def shifted(seconds: int) -> dict[str, str]:
    """Settings of a service whose clock of the day is wrong by so many seconds."""
    return {"LD_PRELOAD": str(_PRELOADED), "FAKETIME": f"{seconds:+}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def clock_of(service: Service) -> datetime:
    """The time by the clock of a service's process: the header `Date`."""
    return datetime.strptime(service.client.get("/healthz").headers["date"], "%a, %d %b %Y %H:%M:%S %Z").replace(
        tzinfo=UTC
    )


def until_silence_counts(service: Service, url: str, name: str) -> None:
    """Waits until some replica has taken a job that nobody runs for dead, as it does once it has swept for 30 s."""
    asyncio.run(_add_silent(url, name))
    wait_until(lambda: show(service, f"/executions/{name}")["status"] == "interrupted", f"{name} is interrupted", 120)


async def _add_silent(url: str, name: str) -> None:
    database = Database(url)
    await SqlJobStore(database).add(NewJob(name, "a program", None))
    async with database.transaction() as connection:
        silent = update(executions).where(executions.c.id == name)
        await connection.execute(silent.values(alive_at=moment(connection, -STALE_AFTER_S - 1)))
    await database.aclose()


def test_replicas_with_other_clocks_leave_each_other_alone(
    start_service: StartService, postgres: Postgres, tmp_path: Path
) -> None:
    """A job, a keyed call and a session of the one live on, though the other would take them for dead by its clock."""
    workers = 3 * COUNT  # whichever replica each call comes to
    settings = {"DATABASE_URL": postgres.url, "POOLS": "v2", "V2_POOL_SIZE": workers, "SESSION_TTL_S": SESSION_TTL_S}
    other = start_service(**settings, **shifted(SHIFT_S))
    assert abs((clock_of(other) - datetime.now(UTC)).total_seconds() - SHIFT_S) < 30
    until_silence_counts(other, postgres.url, "before")
    one = start_service(**settings)
    hold = one.create("hold", HOLD, idempotent=True)
    place, headers = start(one, hold, held(tmp_path, "job"), session_id="s"), keyed()
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        call = callers.submit(one.execute, hold, headers, inputs=held(tmp_path, "call"))
        running(tmp_path, "job")
        running(tmp_path, "call")
        other_place = start(other, hold, held(tmp_path, "other"))
        # `one` has not swept for long enough yet: it is `other` that sweeps here, with all of this before its eyes.
        until_silence_counts(other, postgres.url, "after")
        again = problem(other.execute(hold, headers, inputs=held(tmp_path, "call")), 409, "idempotency_conflict")
        assert again["retry_safe"] is True, again
        assert other.client.get("/sessions/s").status_code == 200
        wait_until(lambda: _hears_both(one) and _hears_both(other), "the replicas hear each other")
        (tmp_path / "go").touch()
        same(call.result(), other.execute(hold, headers, inputs=held(tmp_path, "call")))
    for name in ("job", "call", "other"):
        assert len(list(tmp_path.glob(f"{name}.*"))) == 1
    for where in (place, other_place):
        ended = end_of(one, where)
        assert ended["status"] == "succeeded"
        for name in ("created_at", "started_at", "ended_at"):
            assert abs((datetime.now(UTC) - datetime.fromisoformat(ended[name])).total_seconds()) < 60


def _hears_both(service: Service) -> bool:
    answer: httpx.Response = service.client.get("/rollout/status")
    status = answer.json()
    return len(status["replicas"]) == 2 * COUNT and not any(one["is_silent"] for one in status["replicas"])
