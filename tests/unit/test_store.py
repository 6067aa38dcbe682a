"""The store: migrations that make what the tables say, and a rollout's history that two writers cannot fork."""

import asyncio
import re
import stat
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.fernet import Fernet
from sqlalchemy import Connection, text, update

import store.database
from pools.testing import echo_program
from routing import catalog
from routing.catalog.jobs import Jobs
from routing.catalog.owners import Caller
from routing.catalog.programs import NewProgram, Programs
from routing.catalog.sessions import Sessions
from routing.errors import StaleRevision, StoreUnavailable
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.model import Change, Source
from routing.rollout.ramp import Ramp
from routing.rollout.ramp_clock import StepTimes
from routing.rollout.ramp_store import ReplicaReport
from store.clock import moment
from store.database import Database
from store.job_store import SqlJobStore
from store.lm_store import SqlLMStore
from store.program_store import SqlProgramStore
from store.ramp_store import SqlRampStore
from store.rollout_log import SqlRolloutLog
from store.secret_box import SecretBox
from store.session_store import SqlSessionStore
from store.tables import metadata, ramps

pytestmark = pytest.mark.anyio


_MACHINES_TIME = re.compile(r"\bnow\(UTC\)|\btime\.time\(|\butcnow\(")


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    """No difference that Alembic could see."""

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []


async def test_times_are_of_the_clock_that_replicas_share() -> None:
    """The store and the catalogue never take the time of the machine, which other replicas do not have."""
    folders = (Path(store.database.__file__).parent, Path(catalog.__file__).parent)
    read = {path.name for folder in folders for path in folder.glob("*.py") if _MACHINES_TIME.search(path.read_text())}
    assert read == {"clock.py"}


async def test_an_error_does_not_show_what_was_to_be_stored(database: Database) -> None:
    """Not even the cause that a traceback has: it may be an LM's key."""
    values = {"key": "sk-" + "secret"}
    with pytest.raises(StoreUnavailable) as failed:
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO nowhere VALUES (:key)"), values)
    assert "nowhere" in str(failed.value.__cause__)
    assert "sk-secret" not in "".join(traceback.format_exception(failed.value))


async def test_the_file_is_its_owners_alone(database: Database, tmp_path: Path) -> None:
    """Only the owner may read the database, its write-ahead log and its index, which hold the keys of LMs."""
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("test.db", "test.db-wal", "test.db-shm")}
    assert set(modes.values()) == {0o600}


async def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """The store leaves the mode of an existing file alone: the operator may have a reason."""
    path = tmp_path / "test.db"
    path.touch()
    path.chmod(0o640)
    database = Database(f"sqlite+aiosqlite:///{path}")
    await database.migrate()
    await database.aclose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("form", ["{path}", "file:{path}?uri=true", "file:{link}?uri=true&mode=rwc"])
async def test_a_file_is_one_databases_at_a_time(database: Database, tmp_path: Path, form: str) -> None:
    """However it is named; the second is told so, and has it as soon as the first has let go of it."""
    link = tmp_path / "link.db"
    link.symlink_to("test.db")
    second = Database("sqlite+aiosqlite:///" + form.format(path=tmp_path / "test.db", link=link))
    try:
        with pytest.raises(StoreUnavailable, match=f"another process serves {tmp_path / 'test.db'}$"):
            await second.migrate()
        assert await SqlRolloutLog(database).append(Change(0, Source.DEFAULT, "start"), after=0)
        await database.aclose()
        await second.migrate()
        assert await SqlRolloutLog(second).latest() is not None
    finally:
        await second.aclose()


@pytest.mark.parametrize("form", ["", "/", "/:memory:", "/file::memory:?uri=true"])
async def test_a_database_in_memory_is_nobody_elses(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one name are two, and no file is left behind."""
    monkeypatch.chdir(tmp_path)
    databases = [Database(f"sqlite+aiosqlite://{form}") for _ in range(2)]
    for one in databases:
        await one.migrate()
        assert await SqlRolloutLog(one).latest() is None
    for one in databases:
        await one.aclose()
    assert not files(tmp_path)


async def test_a_close_waits_for_transactions(database: Database) -> None:
    """Waits until all is written: a connection dropped open would keep its thread."""
    log = SqlRolloutLog(database)
    appending = asyncio.create_task(log.append(Change(0, Source.DEFAULT, "start"), after=0))
    await asyncio.sleep(0)
    await database.aclose()
    assert appending.done()
    assert await appending


@pytest.mark.parametrize("replacement", [None, b""])
async def test_a_file_that_goes_away_is_noticed(database: Database, tmp_path: Path, replacement: bytes | None) -> None:
    """Nothing is acknowledged that would be lost; where the file is put back, all goes on."""
    log = SqlRolloutLog(database)
    await log.append(Change(0, Source.DEFAULT, "start"), after=0)
    path, elsewhere = tmp_path / "test.db", tmp_path / "elsewhere"
    path.rename(elsewhere)
    if replacement is not None:
        path.write_bytes(replacement)
    with pytest.raises(StoreUnavailable, match="is gone or another file"):
        await log.append(Change(1, Source.API, "a"), after=1)
    elsewhere.replace(path)
    assert (await log.append(Change(2, Source.API, "a"), after=1)).revision == 2


async def test_what_an_older_version_writes_is_everyones(database: Database) -> None:
    """An older replica beside this one names no owner: its sessions and jobs are found by every caller."""
    moment = "'2026-01-01 00:00:00.000000'"
    columns = "id, created_at, last_seen_at, execution_count"
    session = f"INSERT INTO sessions ({columns}) VALUES ('s', {moment}, {moment}, 1)"
    job = (
        "INSERT INTO executions (id, session_id, program_id, status, created_at, alive_at, is_to_be_cancelled)"
        f" VALUES ('j', 's', 'p', 'queued', {moment}, {moment}, 0)"
    )
    lm = f"INSERT INTO lms (session_id, model, api_key, updated_by, updated_at) VALUES ('s', 'm', 'k', 'b', {moment})"
    async with database.transaction() as connection:
        for statement in (session, job, lm):
            await connection.execute(text(statement))
    caller = Caller("somebody")
    sessions = Sessions(SqlSessionStore(database), Programs(SqlProgramStore(database)), ttl_s=1e9)
    await sessions.load()
    await sessions.admit("s", caller)
    assert (await sessions.show("s", caller)).owner is None
    assert [one.id for one in await sessions.page(caller, limit=9, after="")] == ["s"]
    jobs = Jobs(SqlJobStore(database), limit=1, ttl_s=1)
    assert (await jobs.show("j", caller)).owner is None
    assert [one.id for one in await jobs.page("s", caller, limit=9, before=None)] == ["j"]
    (stored,) = await SqlLMStore(database, SecretBox([Fernet.generate_key()])).load()
    assert stored.settings.api_key == "k"


async def test_a_program_of_a_newer_version_is_left_out(database: Database) -> None:
    """In a rolling update that brings new kinds of programs, an older replica starts, and lists all others."""
    store = SqlProgramStore(database)
    for name in ("first", "new-1", "new-2", "last"):
        await store.add(NewProgram(name, None, echo_program().definition))
    async with database.transaction() as connection:
        newer = "UPDATE programs SET definition = replace(definition, '\"python\"', '\"newer\"') WHERE id LIKE 'new%'"
        await connection.execute(text(newer))
    assert [one.program.id for one in await store.load()] == ["first", "last"]
    assert await store.find("new-1", None) is None
    shown, after = [], 0
    for _ in range(4):
        page = await store.page(None, limit=1, max_bytes=10**6, after=after)
        shown += [one.program.id for one in page.programs]
        if not page.has_more:
            break
        after = int(page.programs[-1].program.key)
    assert shown == ["first", "last"]


def test_migrations_only_add() -> None:
    """No step drops, renames or narrows what an older replica reads and writes: a rolling update has both."""
    scripts = Path(store.database.__file__).parent / "migrations" / "versions"
    for path in scripts.glob("*.py"):
        upgrade = path.read_text().partition("def upgrade")[2].partition("def downgrade")[0]
        assert set(re.findall(r"op\.(\w+)", upgrade)) <= {"create_table", "create_index", "add_column"}, path.name
        for added in re.findall(r"op\.add_column\((.+)\)", upgrade):
            assert "nullable=False" not in added, path.name


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    """Every start does it."""
    await database.migrate()


async def test_a_full_disk_is_told_in_words(database: Database) -> None:
    """The client reads what SQLite says, not the name of a class."""

    async def fill() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("PRAGMA max_page_count = 1"))
            await connection.execute(text("CREATE TABLE large AS SELECT zeroblob(1000000)"))

    with pytest.raises(StoreUnavailable, match=r"^the database cannot be used: database or disk is full$"):
        await fill()


async def test_of_two_writers_one_wins_and_the_other_is_told(database: Database) -> None:
    """Revisions count up without a gap, and a stale writer learns which one is the newest."""
    log = SqlRolloutLog(database)
    first = await log.append(Change(0, Source.DEFAULT, "start"), after=0)
    assert first.revision == 1
    outcomes = await asyncio.gather(
        *(log.append(Change(points, Source.API, f"writer {points}"), after=1) for points in (100, 200, 300)),
        return_exceptions=True,
    )
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, StaleRevision)]
    assert (len(won), len(lost)) == (1, 2)
    assert all(error.current == won[0] for error in lost)
    assert [rollout.revision for rollout in await log.history(limit=10)] == [2, 1]
    assert await log.latest() == won[0]


async def test_what_all_replicas_hear_from_one_source_is_one_change(database: Database) -> None:
    """They read the same file at the same moment: the history has it once, and all are at the same revision."""
    log = SqlRolloutLog(database)
    replicas: list[RolloutFlag] = [await open_flag(log, None) for _ in range(5)]
    for basis_points in (2000, 3000):
        await asyncio.gather(*(replica.apply(Change(basis_points, Source.FILE, "file")) for replica in replicas))
    heard = [rollout.canary_basis_points for rollout in await log.history(limit=100) if rollout.source is Source.FILE]
    assert heard == [3000, 2000]
    assert {replica.current.revision for replica in replicas} == {3}


async def test_a_ramps_last_sign_of_life(database: Database) -> None:
    """The newest of all that services write for a ramp: a change of it, a replica's report, with evidence or without.

    The times of the step come back with it, beside a ramp that older releases can read.
    """
    store = SqlRampStore(database, notifies=False)
    assert await store.find() is None
    times = StepTimes(12.5, 3.25, datetime(2026, 1, 2, tzinfo=UTC))
    written = await store.append(Ramp(pinned="v1", approved_by="dave"), times, after=0)
    async with database.transaction() as connection:
        await connection.execute(update(ramps).values(at=moment(connection, -3600)))
    found = await store.find()
    assert found is not None
    assert (found.stored.ramp, found.stored.times) == (written.ramp, times)
    assert found.ran_s == 0
    assert 3600 <= found.idle_s < 3660
    snapshots: tuple[dict[str, int] | None, ...] = (None, {})
    for snapshot in snapshots:
        await store.keep(ReplicaReport("a replica", datetime.now(UTC), 1, (0, 0)), "a generation", snapshot)
        found = await store.find()
        assert found is not None
        assert 3600 <= found.ran_s < 3660
        assert found.idle_s < 60
