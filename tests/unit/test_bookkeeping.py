"""The work behind the calls: it goes on whatever the store takes for the counts."""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.background import Background
from routing.catalog import bookkeeping
from routing.catalog.bookkeeping import Bookkeeping
from routing.catalog.jobs import Jobs
from routing.catalog.programs import Programs
from routing.catalog.sessions import Sessions
from routing.errors import StoreUnavailable
from routing.versions import Version
from store.database import Database
from store.job_store import SqlJobStore
from store.program_store import SqlProgramStore
from store.session_store import SqlSessionStore
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.usefixtures("short_interval")
TAKES_S = 0.01


@pytest.fixture
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookkeeping, "FLUSH_INTERVAL_S", TAKES_S / 10)


class Store:
    """A stand-in for everything that the bookkeeping works on; writing counts takes a while."""

    def __init__(self, ttl_s: float = 3600.0) -> None:
        self.ttl_s = self.grace_s = ttl_s
        self.writes: list[tuple[float, float]] = []
        self.other_work = 0
        self.sweeps = 0
        self.third_write = asyncio.Event()

    async def flush(self) -> None:
        began = time.monotonic()
        await asyncio.sleep(TAKES_S)  # the slow store itself
        self.writes.append((began, time.monotonic()))
        if len(self.writes) == 3:
            self.third_write.set()

    async def end_idle(self) -> None:
        pass

    async def sweep(self) -> None:
        self.sweeps += 1

    async def keep(self) -> None:
        self.other_work += 1


class Flag:
    """A rollout with nothing to write."""

    async def flush_late(self) -> None:
        pass


async def until_the_third_write(others: Store) -> Store:
    """The work on `others` and on the programs' store, which is returned."""
    programs = Store()
    background = Background()
    work = Bookkeeping(*cast("Any", (programs, Store(), others, others, Store(), Flag(), background)))
    work.start()
    async with asyncio.timeout(DEADLINE_S):
        await programs.third_write.wait()
    await work.aclose()
    await background.aclose()
    return programs


def test_counts_take_a_small_part_of_the_time() -> None:
    """After each write they rest many times as long as it took; what else is to be done goes on meanwhile.

    What is to end is looked for at once, and not again that soon.
    """
    others = Store()
    programs = asyncio.run(until_the_third_write(others))
    for (began, ended), (begins_again, _) in zip(programs.writes[:2], programs.writes[1:3], strict=True):
        assert begins_again - ended >= 20 * (ended - began)
    assert others.other_work > len(programs.writes)
    assert others.sweeps == 1


def test_what_lives_for_a_short_time_is_looked_for_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out because a timer rang a little early, as uvloop's do."""
    now = 0.0

    async def early(seconds: float) -> None:
        nonlocal now
        now += 0.999 * seconds
        await asyncio.sleep(0)

    monkeypatch.setattr(bookkeeping, "asyncio", SimpleNamespace(sleep=early, wait=asyncio.wait))
    monkeypatch.setattr(bookkeeping, "time", SimpleNamespace(monotonic=lambda: now))

    others = Store(ttl_s=4 * bookkeeping.FLUSH_INTERVAL_S)
    asyncio.run(until_the_third_write(others))
    assert others.other_work == 3
    assert others.sweeps >= 2  # the third round is cut off


STEPS = (
    "flag.flush_late",
    "jobs.keep",
    "keys.keep",
    "keys.sweep",
    "programs.flush",
    "sessions.flush",
    "jobs.sweep",
    "sessions.end_idle",
    "deleted_programs.sweep",
)
ERRORS = (
    StoreUnavailable("away"),
    OverflowError("date value out of range"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RuntimeError("can't start new thread"),
    TimeoutError(),
)


class Faulty:
    """A part of the bookkeeping's work, some of whose steps raise."""

    ttl_s = grace_s = 3600.0

    def __init__(self, name: str, faults: dict[str, Exception], done: Counter[str], third: asyncio.Event) -> None:
        self._name = name
        self._faults = faults
        self._done = done
        self._third = third

    def __getattr__(self, step: str) -> Any:
        name = f"{self._name}.{step}"

        async def run() -> None:
            self._done[name] += 1
            if all(self._done[step] >= 3 for step in STEPS):
                self._third.set()
            if name in self._faults:
                raise self._faults[name]

        return run


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(STEPS), st.sampled_from(ERRORS)))
def test_a_step_that_fails_keeps_no_other_from_running(faults: dict[str, Exception]) -> None:
    """Whatever any of them raise: each step runs in the next rounds too, and the last flush has them all."""

    async def run() -> None:
        done: Counter[str] = Counter()
        third = asyncio.Event()
        parts = [
            Faulty(name, faults, done, third)
            for name in ("programs", "deleted_programs", "sessions", "jobs", "keys", "flag")
        ]
        background = Background()
        work = Bookkeeping(*cast("Any", (*parts, background)))
        work._sweep_interval_s = work._longest_rest_s = 0.0
        work.start()
        async with asyncio.timeout(DEADLINE_S):
            await third.wait()
        before = Counter(done)
        await work.aclose()
        await background.aclose()
        assert all(done[step] > before[step] for step in STEPS if step.endswith((".flush", ".flush_late")))

    with structlog.testing.capture_logs() as logged:
        asyncio.run(run())
    failures = Counter(line["step"] for line in logged if line["event"].startswith("bookkeeping failed"))
    unexpected = {step for step, error in faults.items() if not isinstance(error, StoreUnavailable)}
    assert len(failures) == len(unexpected)
    assert set(failures.values()) <= {1}  # a step that keeps failing is logged once
    kept = [line["event"] for line in logged].count("what is to be written is kept in memory")
    assert kept == (any(isinstance(error, StoreUnavailable) for error in faults.values()))


@pytest.mark.parametrize("ttl_s", [1e-9, 3600.0, 1e11, 1e300])
@pytest.mark.anyio
async def test_any_time_to_live_is_a_time_to_live(database: Database, ttl_s: float) -> None:
    """A time to live that reaches back before the first calendar year ends no session and no job."""
    programs = Programs(SqlProgramStore(database))
    sessions = Sessions(SqlSessionStore(database), programs, ttl_s=ttl_s)
    jobs = Jobs(SqlJobStore(database), limit=1, ttl_s=ttl_s)
    sessions.seen("a", Version.V1)
    await sessions.flush()
    await jobs.sweep()
    await sessions.end_idle()
    assert [one.id for one in await sessions.page(limit=10, after="")] == (["a"] if ttl_s > 1 else [])
    assert sessions.active() == ({Version.V1: 1} if ttl_s > 1 else {})


@pytest.mark.anyio
async def test_looking_at_the_active_sessions_changes_nothing(database: Database) -> None:
    """The sweep alone frees those that have expired."""
    sessions = Sessions(SqlSessionStore(database), Programs(SqlProgramStore(database)), ttl_s=0.0)
    sessions.seen("a", Version.V1)
    sessions._dirty.clear()
    sessions._sessions["a"].is_dirty = False
    assert sessions.active() == sessions.active() == {}
    assert list(sessions._sessions) == ["a"]
