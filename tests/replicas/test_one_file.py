"""Three processes share one SQLite file: what each acknowledges holds for all, and nothing is done twice."""

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest

from routing.versions import Version
from store.database import TRANSACTION_TIMEOUT_S, Database
from store.migration_store import SqlUsageStore
from store.outbox import SqlOutbox
from store.program_store import SqlProgramStore
from store.rollout_log import SqlRolloutLog
from store.session_store import SqlSessionStore
from tests.replicas import file_work
from tests.support.database import copy_migrated
from tests.support.sharers import Sharers, sharing
from tests.unit.test_ramp import started
from tests.unit.test_webhook import move

pytestmark = pytest.mark.anyio

REPLICAS = 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A migrated database."""
    copy_migrated(tmp_path / "test.db")
    return tmp_path / "test.db"


@pytest.fixture
async def database(path: Path) -> Any:
    """The same, opened by this process alone; close it before others share the file."""
    database = Database(f"sqlite+aiosqlite:///{path}")
    await database.migrate()
    yield database
    await database.aclose()


def acknowledged(lines: list[dict[str, Any]], what: str) -> list[Any]:
    return [line[what] for line in lines if what in line]


async def test_no_update_is_lost(database: Database, path: Path) -> None:
    """All three add to the same rows, by statements and by reading first."""
    rounds = 20
    await SqlProgramStore(database).add(file_work.PROGRAM)
    await database.aclose()
    with sharing(path, file_work.add_up, REPLICAS, rounds) as sharers:
        sharers.end()
    await database.migrate()
    (program,) = await SqlProgramStore(database).load()
    session = await SqlSessionStore(database).find("s")
    (times,) = await SqlUsageStore(database).times_since(file_work.DAY)
    adds = 2 * rounds * REPLICAS
    assert program.execution_count == 2 * adds
    assert session is not None
    assert session.execution_count == 3 * adds
    assert (times.counts, times.seconds, times.waited_s) == ((adds, 0, 2 * adds), 0.5 * adds, 0.25 * adds)
    assert times.version is Version.V1


async def test_each_revision_has_one_author(database: Database, path: Path) -> None:
    """Revisions of the rollout and of the ramp count up without a gap; who is late is told the newest one."""
    rounds = 40
    await database.aclose()
    with sharing(path, file_work.append_revisions, REPLICAS, rounds) as sharers:
        lines = sharers.end()
    await database.migrate()
    history = await SqlRolloutLog(database).history(limit=10_000)
    for made in (acknowledged(lines, "rollout"), acknowledged(lines, "ramp")):
        assert sorted(made) == list(range(1, len(made) + 1))
        assert len(made) >= rounds
    assert [one.revision for one in history] == sorted(acknowledged(lines, "rollout"), reverse=True)
    assert {(one.revision, one.updated_by) for one in history} == {
        (line["rollout"], f"writer {line['index']}") for line in lines if "rollout" in line
    }


async def test_each_revision_of_a_program_has_one_author(database: Database, path: Path) -> None:
    """A definition replaces the one that its author has read, or none: If-Match holds between processes."""
    programs = SqlProgramStore(database)
    stored = await programs.add(file_work.PROGRAM)
    await database.aclose()
    with sharing(path, file_work.replace_definitions, REPLICAS, 30) as sharers:
        lines = sharers.end()
    await database.migrate()
    made = {line["revision"]: line["instructions"] for line in lines}
    assert len(made) == len(lines) >= 30
    assert sorted(made) == list(range(2, len(made) + 2))
    page = await programs.revisions(stored.program.key, limit=1000, max_bytes=10**9, before=None)
    kept = {one.revision: one.definition for one in page.revisions if one.revision > 1}
    assert all(f'"{made[revision]}"'.encode() in bytes(definition) for revision, definition in kept.items())


def test_each_key_has_one_call(path: Path) -> None:
    """One of equal calls that come to all replicas at once is carried out."""
    keys = 100
    with sharing(path, file_work.claim_keys, REPLICAS, keys) as sharers:
        lines = sharers.end()
    assert sorted(acknowledged(lines, "claimed")) == list(range(keys))


def test_a_lost_call_is_taken_over_once(path: Path) -> None:
    """After a kill of all replicas each call without an answer has one successor."""
    keys = 50
    with sharing(path, file_work.claim_keys, 1, keys) as sharers:
        sharers.end()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE idempotency_keys SET alive_until = '2020-01-01 00:00:00.000000'")
    with sharing(path, file_work.claim_keys, REPLICAS, keys) as sharers:
        taken = Counter(acknowledged(sharers.end(), "taken_over"))
    with closing(sqlite3.connect(path)) as connection:
        (lost,) = connection.execute("SELECT count(*) FROM idempotency_keys WHERE alive_until < '2021'").fetchone()
    assert lost == 0
    assert taken == dict.fromkeys(range(keys), 1)


async def test_each_notification_is_delivered_once(database: Database, path: Path) -> None:
    """Each is claimed by one replica, which has it until it is delivered."""
    await move(database, started())
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = "kind, data, at, attempts, next_at"
        one = f"INSERT INTO outbox ({columns}) SELECT {columns} FROM outbox WHERE key = 1"
        for _ in range(99):
            connection.execute(one)
    await database.aclose()
    with sharing(path, file_work.deliver, REPLICAS) as sharers:
        lines = sharers.end()
    assert sorted(acknowledged(lines, "delivered")) == list(range(1, 101))
    await database.migrate()
    assert await SqlOutbox(database).claim(for_s=1) is None


def test_each_change_is_followed_once_and_in_order(path: Path) -> None:
    """By all replicas, the author's own included; the order is that of the commits."""
    rounds = 60
    with sharing(path, file_work.follow, REPLICAS, rounds) as sharers:
        followed = acknowledged(sharers.end(), "followed")
    with closing(sqlite3.connect(path)) as connection:
        announced = [ref for (ref,) in connection.execute("SELECT ref FROM changes ORDER BY seq")]
    assert len(announced) == rounds * REPLICAS
    assert followed == [announced] * REPLICAS


@pytest.mark.timing
def test_nobody_is_locked_out(path: Path) -> None:
    """Three processes that write all the time for ten seconds: none fails, and none waits long for its turn."""
    with sharing(path, file_work.write_for, REPLICAS, 10) as sharers:
        lines = sharers.end()
    assert len(lines) == REPLICAS
    for line in lines:
        assert max(line["written"]) < TRANSACTION_TIMEOUT_S * 1000 / 4
        assert quantiles(line["written"], n=100)[98] < 400
        assert quantiles(line["read"], n=100)[98] < 200
    shares = [len(line["written"]) for line in lines]
    assert min(shares) > max(shares) / 3


def leader(sharers: Sharers, *, but: int | None = None) -> dict[str, Any]:
    return sharers.next(lambda line: line.get("leads", False) and line["index"] != but)


@pytest.mark.timing
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lease_changes_hands(path: Path, number: signal.Signals) -> None:
    """Within two seconds after the leader is killed or stopped; a leader that comes back is told that it is not."""
    with sharing(path, file_work.lead, REPLICAS) as sharers:
        first = leader(sharers)
        again = [leader(sharers) for _ in range(5)]
        assert {line["index"] for line in again} == {first["index"]}
        os.kill(first["pid"], number)  # it sleeps between two transactions
        next_one = leader(sharers, but=first["index"])
        assert next_one["at"] - again[-1]["at"] < 2.0
        if number == signal.SIGSTOP:
            os.kill(first["pid"], signal.SIGCONT)
            back = sharers.next(lambda line: line["index"] == first["index"] and line["at"] > next_one["at"])
            assert not back["leads"]


def test_a_kill_amid_transactions_loses_nothing(path: Path) -> None:
    """Each row that was acknowledged is there, in one piece, and the others go on within their transactions' time."""
    chance = random.Random(7)
    with sharing(path, file_work.keep_writing, REPLICAS) as sharers:
        pids: dict[int, int] = {}
        while len(pids) < REPLICAS:
            line = sharers.next()
            pids[line["index"]] = line["pid"]
        while len(pids) > 1:
            for _ in range(chance.randrange(20, 60)):
                sharers.next()
            index = chance.choice(sorted(pids))
            os.kill(pids.pop(index), signal.SIGKILL)
            killed_at = time.monotonic()
            assert sharers.next_of(*pids)
            assert time.monotonic() - killed_at < TRANSACTION_TIMEOUT_S
    said = [(line["index"], line["acknowledged"]) for line in sharers.lines if "acknowledged" in line]
    ensure_stored(path, said)


def ensure_stored(path: Path, said: list[tuple[int, int]]) -> None:
    """Fails unless the database is in order and has all rows, each with all that belongs to it."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = dict(connection.execute("SELECT name, length(value) FROM service_secrets").fetchall())
    assert {f"{index}.{number}" for index, number in said} <= set(rows)
    assert set(rows.values()) == {20_000}
