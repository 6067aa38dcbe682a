"""The phase of the migration, its checklist and its objections, as a table of facts."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from routing.errors import StoreUnavailable
from routing.migration.checklist import NAMES, Item, ItemState, Tick, Validation, checklist
from routing.migration.phases import Facts, Phase, position
from routing.migration.usage import DayOfUse, Usage
from routing.rollout.ramp import RampState
from routing.versions import Reason, Version

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MET = tuple(Item(name, ItemState.MET, "seen", "") for name in NAMES)
POOLS = "abc"
FACTS = Facts(
    has_v1=True,
    percent=0.0,
    shadow_percent=10.0,
    ramp=RampState.IDLE,
    has_plan=True,
    waits_for_approval=False,
    is_validated=True,
    checklist=MET,
    v2_fault=None,
    v1_calls=0,
    forced_v1_calls=0,
    is_pinned_to_v1=False,
    v1_sessions=0,
)
NOT_MET = (*MET[:3], Item("load", ItemState.NOT_MET, "5 errors", "look at /failures"), *MET[4:])
UNKNOWN = (*MET[:-1], Item("documentation", ItemState.UNKNOWN, "seen", "poolshift migration tick 'documentation'"))


@pytest.mark.parametrize(
    ("changes", "phase", "next_command", "against"),
    [
        ({"is_validated": False}, Phase.PARALLEL, "poolshift migration validate", ""),
        ({"is_validated": False, "shadow_percent": 0.0}, Phase.PARALLEL, "poolshift migration validate", "real inputs"),
        ({"is_validated": False, "v2_fault": "no Python"}, Phase.PARALLEL, "poolshift migration validate", "no Python"),
        ({}, Phase.VALIDATION, "poolshift rollout start", ""),
        ({"has_plan": False}, Phase.VALIDATION, "poolshift rollout plan set plan.yaml", ""),
        ({"checklist": NOT_MET}, Phase.VALIDATION, "poolshift migration report", "load: not_met, 5 errors"),
        (
            {"checklist": UNKNOWN},
            Phase.VALIDATION,
            "poolshift migration tick 'documentation'",
            "documentation: unknown",
        ),
        ({"percent": 5.0}, Phase.ROLLOUT, "poolshift rollout start", "a person moves"),
        ({"ramp": RampState.RAMPING, "percent": 5.0}, Phase.ROLLOUT, "poolshift rollout watch", ""),
        ({"ramp": RampState.PAUSED, "percent": 5.0}, Phase.ROLLOUT, "poolshift rollout resume", "paused"),
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
        self.is_away = False

    async def add(self, rows: object) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        assert isinstance(rows, list)
        self.rows += rows

    async def since(self, day: str) -> list[DayOfUse]:
        return [row for row in self.rows if row.day >= day]


@pytest.mark.anyio
async def test_calls_are_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the store does meanwhile: what it did not take is added later, and nothing twice."""
    store, counts = _Store(), {(Version.V1, Reason.SPLIT): 5, (Version.V2, Reason.FORCED): 0}
    usage = Usage(lambda: counts, store)
    await usage.flush()
    counts[(Version.V1, Reason.SPLIT)] = 8
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
