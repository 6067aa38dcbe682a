"""The phase of the migration, its checklist and its objections, as a table of facts."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from routing.errors import StoreUnavailable
from routing.migration.checklist import NAMES, Item, ItemState, Tick, Validation, checklist
from routing.migration.pause import Pause, pause_of
from routing.migration.phases import Facts, Phase, position
from routing.migration.usage import DayOfTimes, DayOfUse, Usage, service_times
from routing.rollout.ramp import Ramp, RampState
from routing.versions import Reason, Version
from store.database import Database
from store.migration_store import SqlUsageStore

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MET = tuple(Item(name, ItemState.MET, "seen", "") for name in NAMES)
POOLS = "abc"
FACTS = Facts(
    has_v1=True,
    percent=0.0,
    shadow_percent=10.0,
    compared=100,
    ramp=RampState.IDLE,
    pause=None,
    has_plan=True,
    waits_for_approval=False,
    is_validated=True,
    checklist=MET,
    warning=None,
    alarm=None,
    never_run=None,
    v2_fault=None,
    v1_calls=0,
    forced_v1_calls=0,
    is_pinned_to_v1=False,
    v1_sessions=0,
)


def pause(guardrail: str) -> Pause | None:
    ramp = Ramp(state=RampState.PAUSED, by="judge", reason=f"{guardrail}: its figures")
    return pause_of(ramp, ["e-1", "e-2", "e-3", "e-4"])


NOT_MET = (*MET[:3], Item("load", ItemState.NOT_MET, "5 errors", "look at /failures"), *MET[4:])
QUIET = (*MET[:6], Item("metrics", ItemState.UNKNOWN, "nobody scrapes", "let Prometheus scrape"), *MET[7:])
UNKNOWN = (*MET[:-1], Item("documentation", ItemState.UNKNOWN, "seen", "poolshift migration tick 'documentation'"))


@pytest.mark.parametrize(
    ("changes", "phase", "next_command", "against"),
    [
        ({"is_validated": False}, Phase.PARALLEL, "poolshift migration validate", ""),
        ({"is_validated": False, "shadow_percent": 0.0}, Phase.PARALLEL, "poolshift migration validate", "real inputs"),
        ({"is_validated": False, "compared": 0}, Phase.PARALLEL, "poolshift migration validate", "no call has been"),
        ({"is_validated": False, "v2_fault": "no Python"}, Phase.PARALLEL, "poolshift migration validate", "no Python"),
        ({}, Phase.VALIDATION, "poolshift rollout start", ""),
        ({"has_plan": False}, Phase.VALIDATION, "poolshift rollout plan set plan.yaml", ""),
        ({"checklist": NOT_MET}, Phase.VALIDATION, "poolshift migration report", "load: not_met, 5 errors"),
        ({"checklist": QUIET}, Phase.VALIDATION, "poolshift migration report", "metrics: unknown"),
        (
            {"checklist": UNKNOWN},
            Phase.VALIDATION,
            "poolshift migration tick 'documentation'",
            "documentation: unknown",
        ),
        ({"alarm": "V2 has become worse", "percent": 100.0}, Phase.FULL, "poolshift migration status", "become worse"),
        ({"warning": "Advanced", "percent": 100.0}, Phase.FULL, "poolshift migration status", "Advanced"),
        ({"never_run": "never a"}, Phase.VALIDATION, "poolshift rollout start", "never a"),
        ({"never_run": "never a", "percent": 100.0}, Phase.FULL, "poolshift migration status", "never a"),
        (
            {"never_run": "never a", "ramp": RampState.RAMPING, "percent": 5.0},
            Phase.ROLLOUT,
            "poolshift rollout watch",
            "never a",
        ),
        ({"percent": 5.0}, Phase.ROLLOUT, "poolshift rollout start", "a person moves"),
        ({"ramp": RampState.RAMPING, "percent": 5.0}, Phase.ROLLOUT, "poolshift rollout watch", ""),
        ({"ramp": RampState.PAUSED, "percent": 5.0}, Phase.ROLLOUT, "poolshift rollout resume", "paused"),
        (
            {"ramp": RampState.PAUSED, "percent": 5.0, "pause": pause("quality")},
            Phase.ROLLOUT,
            "poolshift shadow report",
            "executions to look at: e-1, e-2, e-3",
        ),
        (
            {"ramp": RampState.PAUSED, "percent": 5.0, "pause": pause("srm")},
            Phase.ROLLOUT,
            "poolshift rollout analysis",
            "paused by a guardrail. srm: its figures",
        ),
        (
            {"ramp": RampState.WAITING, "percent": 5.0, "waits_for_approval": True},
            Phase.ROLLOUT,
            "poolshift rollout approve",
            "waits",
        ),
        ({"percent": 100.0, "ramp": RampState.PROMOTED}, Phase.FULL, "POOLS=v2 poolshift serve", ""),
        (
            {"percent": 100.0, "v1_calls": 12, "forced_v1_calls": 3},
            Phase.FULL,
            "poolshift migration status",
            "12 calls in the last 7 days, 3 of them forced",
        ),
        ({"percent": 100.0, "v1_sessions": 2}, Phase.FULL, "poolshift migration status", "2 sessions"),
        ({"percent": 100.0, "is_pinned_to_v1": True}, Phase.FULL, "poolshift migration status", "POOL_VERSION=v1"),
        ({"percent": 100.0, "has_v1": False}, Phase.DONE, "", ""),
    ],
)
def test_the_phase_follows_from_the_facts(
    changes: dict[str, object], phase: Phase, next_command: str, against: str
) -> None:
    """Each phase has its one next command, and its objections."""
    found = position(replace(FACTS, **changes))  # type: ignore[arg-type]
    assert (found.phase, found.next) == (phase, next_command)
    assert bool(found.settings) == (found.next == "POOLS=v2 poolshift serve")
    if against:
        assert any(against in objection for objection in found.against)
    else:
        assert not found.against


@pytest.mark.parametrize(
    "ramp",
    [
        Ramp(state=RampState.PAUSED, by="alice", reason="shadow: looks odd"),
        Ramp(state=RampState.RAMPING, by="judge", reason="shadow: its figures"),
        Ramp(state=RampState.PAUSED, by="judge"),
    ],
)
def test_a_persons_pause_is_none_of_a_guardrail(ramp: Ramp) -> None:
    """Whatever its reason says."""
    assert pause_of(ramp, []) is None


def validation(pools: str = POOLS) -> Validation:
    return Validation(1, NOW, "ops", pools, MET, {})


def test_nothing_is_known_without_a_validation() -> None:
    """All ten are there, in the guide's order."""
    items = checklist(None, POOLS, {})
    assert tuple(one.item for one in items) == NAMES
    assert {one.state for one in items} == {ItemState.UNKNOWN}


def test_a_validation_of_other_pools_proves_nothing() -> None:
    """The evidence says what has changed."""
    items = checklist(validation("other"), POOLS, {})
    assert {one.state for one in items} == {ItemState.UNKNOWN}
    assert "the pools have changed" in items[0].evidence


def test_documentation_needs_a_person() -> None:
    """The item stays open until a person says so, although all that can be checked is met."""
    before = checklist(validation(), POOLS, {})[-1]
    assert (before.item, before.state) == ("documentation", ItemState.UNKNOWN)
    tick = Tick("documentation", "ops", NOW, "runbook 7")
    after = checklist(validation(), POOLS, {"documentation": tick})[-1]
    assert after.state is ItemState.MET
    assert "confirmed by ops on 2026-11-26: runbook 7" in after.evidence


def test_a_plan_adds_items() -> None:
    """Each waits for a person, and is met with the name and the day."""
    tick = Tick("the customers know", "ops", NOW, None)
    items = checklist(validation(), POOLS, {tick.item: tick}, ("the customers know", "a backup is there"))[-2:]
    assert [(one.item, one.state) for one in items] == [
        ("the customers know", ItemState.MET),
        ("a backup is there", ItemState.UNKNOWN),
    ]
    assert items[1].how == "poolshift migration tick 'a backup is there'"


class _Store:
    """A store that a test lets fail."""

    def __init__(self) -> None:
        self.rows: list[DayOfUse] = []
        self.times: list[DayOfTimes] = []
        self.is_away = False

    async def add(self, rows: Sequence[DayOfUse], times: Sequence[DayOfTimes]) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("away")
        self.rows += rows
        self.times += times

    async def times_since(self, day: str) -> list[DayOfTimes]:
        return [row for row in self.times if row.day >= day]

    async def since(self, day: str) -> list[DayOfUse]:
        return [row for row in self.rows if row.day >= day]


@pytest.mark.anyio
async def test_calls_are_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the store does meanwhile: what it did not take is added later, and nothing twice."""
    store, counts = _Store(), {(Version.V1, Reason.SPLIT): 5, (Version.V2, Reason.FORCED): 0}
    durations = {Version.V1: ([4, 1, 0], 2.5, 0.5)}
    usage = Usage(lambda: counts, lambda: durations, store)
    await usage.flush()
    counts[(Version.V1, Reason.SPLIT)] = 8
    durations[Version.V1] = ([6, 2, 0], 5.0, 1.0)
    store.is_away = True
    await usage.flush()
    counts[(Version.V1, Reason.SPLIT)] = 9
    store.is_away = False
    await usage.flush()
    await usage.flush()
    assert [(row.version, row.reason, row.calls) for row in store.rows] == [
        (Version.V1, Reason.SPLIT, 5),
        (Version.V1, Reason.SPLIT, 4),
    ]
    day = store.rows[0].day
    assert [(row.counts, row.seconds, row.waited_s) for row in await usage.times_since(day)] == [
        ((4, 1, 0), 2.5, 0.5),
        ((2, 1, 0), 2.5, 0.5),
    ]


@pytest.mark.anyio
async def test_calls_are_added_once_however_many_ask() -> None:
    """Several look at the migration at the same moment, each with the calls since the last addition."""
    store, counts = _Store(), {(Version.V1, Reason.SPLIT): 5}
    usage = Usage(lambda: counts, dict, store)
    await asyncio.gather(*(usage.since("2026-01-01") for _ in range(4)))
    assert [row.calls for row in store.rows] == [5]


@pytest.mark.anyio
async def test_a_peak_is_of_a_minute_whenever_somebody_looks() -> None:
    """A look amid the minute makes its peak no smaller, and an outage of the store makes none of two minutes."""
    store, key = _Store(), (Version.V1, Reason.SPLIT)
    counts = {key: 0}
    usage = Usage(lambda: counts, dict, store)
    for count in (30, 60):  # looks amid a minute of 70 calls
        counts[key] = count
        await usage.flush()
    counts[key] = 70
    usage.end_minute()
    await usage.flush()
    store.is_away = True
    for calls in (20, 90, 10):
        counts[key] += calls
        usage.end_minute()
        await usage.flush()
    store.is_away = False
    await usage.flush()
    assert [(row.calls, row.peak_per_minute) for row in store.rows] == [(30, 30), (30, 60), (10, 70), (120, 90)]


def test_durations_of_some_days_add_up() -> None:
    """Mean, wait, variation and p99 are those of all calls of a version; days with other buckets are left out."""
    days = [
        DayOfTimes("2026-11-25", Version.V2, (50, 0, 0), 30.0, 5.0),
        DayOfTimes("2026-11-26", Version.V2, (0, 50, 0), 80.0, 5.0),
        DayOfTimes("2026-11-26", Version.V2, (7,), 99.0, 9.0),
        DayOfTimes("2026-11-26", Version.V1, (0, 0, 0), 0.0, 0.0),
    ]
    (found,) = service_times(days, (1.0, 2.0))
    assert (found.version, found.calls, found.mean_s, found.mean_wait_s) == (Version.V2, 100, 1.0, 0.1)
    assert found.variation == pytest.approx(0.25)
    assert (found.p99_s, found.longest_s) == (2.0, 2.0)


@pytest.mark.anyio
async def test_durations_outlive_a_restart(database: Database) -> None:
    """Two runs add to one day's row; one of a release with other buckets begins it again."""
    store = SqlUsageStore(database)
    one = DayOfTimes("2026-11-26", Version.V1, (1, 2, 3), 1.5, 0.5)
    await store.add([], [one])
    await store.add([], [one])
    assert await store.times_since("2026-11-20") == [replace(one, counts=(2, 4, 6), seconds=3.0, waited_s=1.0)]
    await store.add([], [replace(one, counts=(1, 1))])
    assert await store.times_since("2026-11-26") == [replace(one, counts=(1, 1))]
    assert await store.times_since("2026-11-27") == []
