"""The evidence that a V2 has been tried, before a rotation gives it all traffic."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from analysis.verdict import Say, Verdict
from routing.rotation.trial import Calls, End, Outcome, TrialRecord, trial_of
from store.database import Database
from store.trial_store import SqlTrialStore

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WELL = Verdict(Say.CONTINUE, None, 0.0, 5.0, "all", 0.0)
BADLY = Verdict(Say.ROLLBACK, "engine", 6.0, 5.0, "all", 0.0)
MIN_CALLS = 1000


def ended(outcome: Outcome, by: str = "ops", reason: str | None = "prices") -> End:
    return End(outcome, by, reason, AT, 3)


def trial(served: int, faults: int = 0, end: Outcome | None = None, against: End | None = None) -> TrialRecord:
    return TrialRecord(Calls(served, faults), end=None if end is None else ended(end), against=against)


@pytest.mark.parametrize(
    ("record", "verdict", "is_proven", "told"),
    [
        (None, WELL, False, "it has served 0 calls with 0 faults of its own; ROTATE_MIN_CALLS asks for 1,000"),
        (trial(999), WELL, False, "999 calls"),
        (trial(1000), WELL, True, "it has served 1,000 calls with 0 faults"),
        (trial(1000), None, True, "it has served 1,000 calls"),
        (trial(9900, 100), WELL, True, "10,000 calls with 100 faults"),
        (trial(9899, 101), WELL, False, "10,000 calls with 101 faults of its own, more than 1 %"),
        (trial(1000), BADLY, False, "the judge says rollback of this V2, by engine"),
        (trial(0, 0, Outcome.PROVEN), WELL, True, "its plan ended promoted by evidence by ops at 2026-"),
        (trial(0, 0, Outcome.PROVEN), BADLY, False, "the judge says rollback"),
        (trial(10, 0, Outcome.PROMOTED), WELL, False, "it has served 10 calls"),
        (trial(1000, 0, Outcome.PROMOTED), WELL, True, "it has served 1,000 calls"),
        (
            trial(0, 0, Outcome.PROMOTED, ended(Outcome.ROLLED_BACK, "judge")),
            WELL,
            False,
            "this V2 was rolled back by judge at 2026-01-02T03:04:05+00:00: prices; since then it has served 0 calls",
        ),
        (trial(999, 0, Outcome.RAMPING, ended(Outcome.ABORTED, reason=None)), WELL, False, "was aborted by ops at"),
        (trial(900, 100, None, ended(Outcome.ABORTED)), WELL, False, "since then it has served 1,000 calls with 100"),
        (trial(9000, 900, None, ended(Outcome.UNROTATED)), WELL, False, "which was taken back by ops"),
        (trial(1000, 0, Outcome.UNROTATED, ended(Outcome.UNROTATED)), WELL, True, "since then it has served 1,000"),
        (trial(1000, 0, None, ended(Outcome.ROLLED_BACK)), BADLY, False, "the judge says rollback"),
        (trial(1000, 0, Outcome.RAMPING), WELL, True, "it has served 1,000 calls"),
    ],
)
def test_what_is_evidence(record: TrialRecord | None, verdict: Verdict | None, is_proven: bool, told: str) -> None:
    """A promotion by evidence, or enough calls since the last end against V2; whatever it was before, and by whom."""
    found = trial_of(record, verdict, MIN_CALLS)
    assert found.is_proven is is_proven
    assert told in found.told


@pytest.mark.parametrize("record", [trial(1000), trial(0, 0, Outcome.PROVEN)])
def test_a_definition_that_no_call_has_tried(record: TrialRecord) -> None:
    """Calls of others prove nothing of a definition; a few are named, and the rest counted."""
    found = trial_of(record, WELL, MIN_CALLS, [f"p{number}" for number in range(7)])
    assert not found.is_proven
    assert found.told == "no call has tried V2's own definition of p0, p1, p2, p3, p4 and 2 more"


@pytest.mark.anyio
async def test_replicas_write_to_one_row(database: Database) -> None:
    """Calls add up; a replica that is behind neither begins a ramp again that has ended, nor an older one."""
    one, other = SqlTrialStore(database), SqlTrialStore(database)
    assert await one.find("a") is None
    await asyncio.gather(one.add("a", Calls(3, 1), ["7"], ends=0), other.add("a", Calls(4, 0), ["8"], ends=0))
    await one.begin_run("a", ended(Outcome.RAMPING))
    assert await other.find("a") == TrialRecord(Calls(7, 1), frozenset({"7", "8"}), ended(Outcome.RAMPING))
    await one.end_run(3, ended(Outcome.PROMOTED))
    await other.begin_run("a", ended(Outcome.RAMPING))
    await other.begin_run("a", End(Outcome.RAMPING, "ops", None, AT, 2))
    await other.end_run(2, ended(Outcome.PROVEN))
    assert await other.find("a") == TrialRecord(Calls(7, 1), frozenset({"7", "8"}), ended(Outcome.PROMOTED))
    await other.begin_run("a", End(Outcome.RAMPING, "ops", None, AT, 4))
    record = await one.find("a")
    assert record is not None
    assert record.end == End(Outcome.RAMPING, "ops", None, AT, 4)
    assert await one.find("b") is None


@pytest.mark.anyio
async def test_an_end_against_v2_begins_the_counts_again(database: Database) -> None:
    """Once, however often it is written; calls that were counted before it are refused, and later ones are added."""
    store = SqlTrialStore(database)
    aborted = ended(Outcome.ABORTED)
    await store.begin_run("a", ended(Outcome.RAMPING))
    assert await store.add("a", Calls(10, 0), ["7"], ends=0) == 0
    await store.end_run(3, ended(Outcome.ROLLED_BACK))
    await store.end_run(3, aborted)
    assert await store.find("a") == TrialRecord(end=aborted, against=aborted, ends=1)
    assert await store.add("a", Calls(5, 0), ["7"], ends=0) == 1
    assert await store.add("a", Calls(6, 0), ["8"], ends=1) == 1
    await store.end_run(3, aborted)
    began = End(Outcome.RAMPING, "ops", None, AT, 4)
    await store.begin_run("a", began)
    assert await store.find("a") == TrialRecord(Calls(6, 0), frozenset("8"), began, aborted, 1)
    by_hand = End(Outcome.ROLLED_BACK, "ops", "prices", AT + timedelta(seconds=1))
    for _ in range(2):
        await store.end("a", by_hand)
    assert await store.find("a") == TrialRecord(end=replace(by_hand, run=4), against=by_hand, ends=2)
    await store.end_run(4, End(Outcome.ABORTED, "ops", None, AT, 4))
    assert await store.find("a") == TrialRecord(end=replace(by_hand, run=4), against=by_hand, ends=2)
    await store.begin_run("a", End(Outcome.RAMPING, "ops", None, AT, 5))
    proven = End(Outcome.PROVEN, "judge", None, AT, 5)
    await store.end_run(5, proven)
    assert await store.find("a") == TrialRecord(end=proven, ends=2)
