"""The files of a SQLite database that several processes share: who has them, and what if somebody deletes them."""

import os
import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.background import Background
from routing.errors import StoreUnavailable
from store.database import Database, claim_for_replicas
from store.follower import Follower
from tests.replicas import file_work
from tests.replicas.test_one_file import ensure_stored
from tests.support.database import copy_migrated
from tests.support.sharers import Sharers, sharing
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A migrated database."""
    copy_migrated(tmp_path / "test.db")
    return tmp_path / "test.db"


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@pytest.mark.parametrize("suffixes", [["-wal"], ["-wal", "-shm"]])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_deleted_log_loses_nothing(path: Path, suffixes: list[str], *, is_replaced: bool) -> None:
    """Two processes write on while their log is deleted: the database file has all that they acknowledge."""
    flag = path.with_name("enough")
    with sharing(path, file_work.write_until, 2, flag) as sharers:
        write_on(sharers, 5)
        for suffix in suffixes:
            beside(path, suffix).unlink()
            if is_replaced:
                beside(path, suffix).touch()
        write_on(sharers, 15)
        flag.touch()
        for _ in range(2):
            sharers.next(lambda line: "rests" in line)
        copy = path.with_name("copy.db")
        copy.write_bytes(path.read_bytes())  # without a log
        said = [(line["index"], line["acknowledged"]) for line in sharers.lines if "acknowledged" in line]
        ensure_stored(copy, said)
    ensure_stored(path, said)


def write_on(sharers: Sharers, times: int) -> None:
    """Waits until both have written so often."""
    for index in (0, 1):
        for _ in range(times):
            sharers.next_of(index)


def late_one(sharers: Sharers, flag: Path) -> dict[str, Any]:
    """Has the second process open the database, after the first one; returns its word."""
    flag.touch()
    return sharers.next_of(1)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_late_process_makes_no_second_log(path: Path, suffix: str, *, is_replaced: bool) -> None:
    """A replica is refused while another has the deleted log: each would overwrite what the other has written."""
    flag = path.with_name("now")
    with sharing(path, file_work.open_when, 2, flag) as sharers:
        assert sharers.next()["opened"]
        beside(path, suffix).unlink()
        if is_replaced:
            beside(path, suffix).touch()
        line = late_one(sharers, flag)
        assert (
            line["refused"] == f"{path}-wal is gone or another file, and other replicas use it: start the service again"
        )
        if not is_replaced:
            assert not beside(path, suffix).exists()
    with sharing(path, file_work.open_when, 1, flag) as sharers:
        assert sharers.next()["opened"]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_late_process_opens_no_other_database(path: Path, *, is_replaced: bool) -> None:
    """If the file is gone, a replica that starts makes no empty one beside those that have the old one."""
    flag = path.with_name("now")
    with sharing(path, file_work.open_when, 2, flag) as sharers:
        assert sharers.next()["opened"]
        path.rename(path.with_name("elsewhere"))
        if is_replaced:
            path.touch()
        assert str(late_one(sharers, flag)["refused"]).startswith(f"{path} is gone or another file")
        assert path.exists() == is_replaced


def test_a_process_takes_the_place_of_one_that_was_killed(path: Path) -> None:
    """Alone, or beside others; nothing of the killed one is in its way."""
    flag = path.with_name("now")
    with sharing(path, file_work.open_when, 2, flag) as sharers:
        os.kill(sharers.next()["pid"], signal.SIGKILL)
        beside(path, "-wal").unlink()  # which nobody uses
        assert late_one(sharers, flag)["opened"]


async def test_the_claim_ends_with_the_last_process(path: Path) -> None:
    """A service that starts is refused as long as any replica lives, whatever has become of the supervisor."""
    url = f"sqlite+aiosqlite:///{path}"
    database = Database(url)
    flag = path.with_name("now")
    with sharing(path, file_work.open_when, 2, flag) as sharers:
        first = sharers.next()["pid"]
        second = late_one(sharers, flag)["pid"]
        os.kill(sharers.process.pid, signal.SIGKILL)
        sharers.process.wait()
        for pid in (first, second):
            with pytest.raises(StoreUnavailable, match="another process serves"):
                await database.migrate()
            with pytest.raises(StoreUnavailable, match="another process serves"):
                claim_for_replicas(url)
            os.kill(pid, signal.SIGKILL)
        wait_until(partial(is_free, url), "both have ended")
        await database.migrate()
        await database.aclose()


def is_free(url: str) -> bool:
    """Tells if nobody has the file: a process that is about to end may have it for a moment."""
    try:
        share = claim_for_replicas(url)
    except StoreUnavailable:
        return False
    assert share is not None
    share.close()
    return True


@pytest.mark.parametrize(
    "form",
    ["/{path}", "/{link}", "/{folder}/./other/../test.db", "/file:{path}?uri=true", "/file:{link}?uri=true&mode=rwc"],
)
async def test_a_claim_finds_the_file_of_a_url(path: Path, form: str) -> None:
    """However it is named, it is the one that a single service claims, and opens."""
    link, folder = path.with_name("link.db"), path.parent
    link.symlink_to("test.db")
    (folder / "other").mkdir()
    url = "sqlite+aiosqlite://" + form.format(path=path, link=link, folder=folder)
    share = claim_for_replicas(url)
    assert share is not None
    assert share.lock.path == path
    database, alone = Database(url, share=share), Database(url)
    with pytest.raises(StoreUnavailable, match=f"another process serves {path}$"):
        await alone.migrate()
    await database.migrate()
    await database.aclose()
    share.close()
    await alone.migrate()
    await alone.aclose()


def test_a_claim_makes_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    """As a single service does; what is no database is refused by the first replica, in a line."""
    share = claim_for_replicas(f"sqlite+aiosqlite:///{tmp_path / 'new.db'}")
    assert share is not None
    share.close()
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreUnavailable, match=r"^cannot open the database: .*\(DATABASE_URL=sqlite"):
        claim_for_replicas(f"sqlite+aiosqlite:///{tmp_path / 'nowhere' / 'new.db'}")


@pytest.mark.parametrize("form", ["", "/", "/:memory:", "/file::memory:?uri=true", "/file:x?mode=memory&uri=true"])
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_replicas_need_a_file(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database in memory would be each replica's own: one line says so, and no file is left behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        StoreUnavailable, match=r"several replicas need a database in a file, and this one is in memory"
    ):
        claim_for_replicas(f"sqlite+aiosqlite://{form}")
    assert not list(tmp_path.iterdir())


def test_postgresql_needs_no_claim() -> None:
    """Nor is anything asked of it."""
    assert claim_for_replicas("postgresql+asyncpg://u@127.0.0.1:1/x") is None
    with pytest.raises(StoreUnavailable, match="DATABASE_URL is not a URL"):
        claim_for_replicas("nonsense")


async def test_a_numbering_never_goes_back(path: Path) -> None:
    """The newest change stays, however old it is: SQLite numbers the next one by it."""
    share = claim_for_replicas(f"sqlite+aiosqlite:///{path}")
    assert share is not None
    database = Database(f"sqlite+aiosqlite:///{path}", share=share)
    await database.migrate()
    await announce_and_forget(database, path)
    await database.aclose()
    share.close()


async def announce_and_forget(database: Database, path: Path) -> None:
    """Announces three changes, lets them grow old and begins again; the fourth has the next number."""
    for number in range(4):
        if number == 3:
            with closing(sqlite3.connect(path)) as elsewhere, elsewhere:
                elsewhere.execute("UPDATE changes SET at = '2020-01-01 00:00:00.000000'")
            await Follower(database, Background()).mark()
        async with database.transaction() as connection:
            await database.announce(connection, "lm", str(number))
    with closing(sqlite3.connect(path)) as elsewhere:
        assert elsewhere.execute("SELECT seq, ref FROM changes ORDER BY seq").fetchall() == [(3, "2"), (4, "3")]
