"""The evidence that a V2 has been tried, before a rotation gives it all traffic."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from analysis.verdict import Say, Verdict
from routing.rotation.trial import End, Outcome, TrialRecord, trial_of
from store.database import Database
from store.trial_store import SqlTrialStore

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WELL = Verdict(Say.CONTINUE, None, 0.0, 5.0, "all", 0.0)
BADLY = Verdict(Say.ROLLBACK, "engine", 6.0, 5.0, "all", 0.0)
MIN_CALLS = 1000


def ended(outcome: Outcome, by: str = "ops", reason: str | None = "prices") -> End:
    return End(outcome, by, reason, AT, 3)


@pytest.mark.parametrize(
    ("record", "verdict", "is_proven", "told"),
    [
        (None, WELL, False, "it has served 0 calls with 0 faults of its own; ROTATE_MIN_CALLS asks for 1,000"),
        (TrialRecord(999, 0), WELL, False, "999 calls"),
        (TrialRecord(1000, 0), WELL, True, "it has served 1,000 calls with 0 faults"),
        (TrialRecord(1000, 0), None, True, "it has served 1,000 calls"),
        (TrialRecord(9900, 100), WELL, True, "10,000 calls with 100 faults"),
        (TrialRecord(9899, 101), WELL, False, "10,000 calls with 101 faults of its own, more than 1 %"),
        (TrialRecord(1000, 0), BADLY, False, "the judge says rollback of this V2, by engine"),
        (TrialRecord(0, 0, ended(Outcome.PROMOTED, "judge")), WELL, True, "its plan ended promoted by judge at 2026-"),
        (TrialRecord(0, 0, ended(Outcome.PROMOTED, "plan")), WELL, True, "its plan ended promoted by plan"),
        (TrialRecord(10, 0, ended(Outcome.PROMOTED)), WELL, False, "it has served 10 calls"),
        (TrialRecord(1000, 0, ended(Outcome.PROMOTED)), WELL, True, "it has served 1,000 calls"),
        (
            TrialRecord(9000, 0, ended(Outcome.ROLLED_BACK, "judge")),
            WELL,
            False,
            "this V2 was rolled back by judge at 2026-01-02T03:04:05+00:00: prices",
        ),
        (TrialRecord(9000, 0, ended(Outcome.ABORTED, reason=None)), WELL, False, "was aborted by ops at"),
        (TrialRecord(9000, 0, ended(Outcome.UNROTATED)), WELL, False, "which was taken back by ops"),
        (TrialRecord(1000, 0, ended(Outcome.RAMPING)), WELL, True, "it has served 1,000 calls"),
    ],
)
def test_what_is_evidence(record: TrialRecord | None, verdict: Verdict | None, is_proven: bool, told: str) -> None:
    """A promotion without a person's word, or enough calls; nothing outweighs a rollback, an abort or an undo."""
    trial = trial_of(record, verdict, MIN_CALLS)
    assert trial.is_proven is is_proven
    assert told in trial.told


def test_replicas_write_to_one_row(tmp_path: Path) -> None:
    """Calls add up; a replica that is behind neither begins a ramp again that has ended, nor an older one."""

    async def work(database: Database) -> None:
        await database.migrate()
        one, other = SqlTrialStore(database), SqlTrialStore(database)
        assert await one.find("a") is None
        await asyncio.gather(one.add("a", 3, 1), other.add("a", 4, 0))
        await one.begin_run("a", ended(Outcome.RAMPING))
        await one.end_run(3, ended(Outcome.ABORTED))
        await other.begin_run("a", ended(Outcome.RAMPING))
        await other.begin_run("a", End(Outcome.RAMPING, "ops", None, AT, 2))
        await other.end_run(2, ended(Outcome.PROMOTED))
        assert await other.find("a") == TrialRecord(7, 1, ended(Outcome.ABORTED))
        await other.begin_run("a", End(Outcome.RAMPING, "ops", None, AT, 4))
        record = await one.find("a")
        assert record is not None
        assert record.end == End(Outcome.RAMPING, "ops", None, AT, 4)
        assert await one.find("b") is None

    async def opened() -> None:
        database = Database(f"sqlite+aiosqlite:///{tmp_path / 'poolshift.db'}")
        try:
            await work(database)
        finally:
            await database.aclose()

    asyncio.run(opened())
