"""`poolshift db backup|check|restore`, with a real service that writes meanwhile."""

import os
import threading
from itertools import count
from pathlib import Path

import pytest

from poolshift.client import Client
from tests.cli.conftest import Poolshift
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

COPIES = 3
DEFINITION = {
    "program_type": "python",
    "entrypoint": "tests.support.programs:echo",
    "signature": {
        "inputs": [{"name": "nonce", "type": "string"}],
        "outputs": [{"name": "result", "type": "string"}],
    },
}


@pytest.fixture
def poolshift(tmp_path: Path) -> Poolshift:
    """The command, in the folder of the service."""
    return Poolshift(tmp_path, {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})


class Writer(threading.Thread):
    """Creates and runs one program after another, and keeps the ids of those that the service has acknowledged."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._has_to_end = threading.Event()
        self.written: list[str] = []
        self.failed: list[str] = []

    def run(self) -> None:
        for number in count():
            if self._has_to_end.is_set():
                return
            definition = {**DEFINITION, "id": f"program-{number}"}
            created = self._service.client.post("/programs", json=definition)
            answer = self._service.execute(f"program-{number}", inputs={"nonce": "x"})
            if (created.status_code, answer.status_code) == (201, 200):
                self.written.append(f"program-{number}")
            else:
                self.failed.append(created.text + answer.text)

    def end(self) -> None:
        """Ends it amid nothing."""
        self._has_to_end.set()
        self.join()


def programs(service: Service) -> set[str]:
    """The ids of all programs."""
    with Client(service.url) as client:
        return {program.id for program in client.programs.list()}


def test_copies_taken_under_load_are_whole(tmp_path: Path, poolshift: Poolshift) -> None:
    """No call fails meanwhile; a copy has all that was acknowledged before it, and only its owner may read it."""
    before: list[set[str]] = []
    with running_service(tmp_path) as service:
        writer = Writer(service)
        writer.start()
        try:
            for number in range(COPIES):
                wait_until(lambda: len(writer.written) > 5 * (number + 1), "programs are written")  # noqa: B023 - waits here
                before.append(set(writer.written))
                told = poolshift.json("db", "backup", f"copy-{number}.db")
                assert told["bytes"] == str((tmp_path / f"copy-{number}.db").stat().st_size)
        finally:
            writer.end()
        assert not writer.failed
        assert poolshift.json("db", "check")["schema"] == told["schema"]
        assert "another process serves" in poolshift.fails(3, "db", "restore", "copy-0.db", "--yes")
        everything = programs(service)
    assert (tmp_path / "copy-0.db").stat().st_mode & 0o777 == 0o600

    for number, written in enumerate(before):
        told = poolshift.json("db", "restore", f"copy-{number}.db", "--yes")
        with running_service(tmp_path) as service:
            restored = programs(service)
            assert written <= restored <= everything
            assert service.execute(sorted(written)[0], inputs={"nonce": "x"}).status_code == 200
        if number == 0:
            poolshift.json("db", "restore", told["before"], "--yes")
            with running_service(tmp_path) as service:
                assert programs(service) == everything


def test_a_copy_can_be_restored_where_no_database_is(tmp_path: Path, poolshift: Poolshift) -> None:
    """A new machine begins with a copy."""
    with running_service(tmp_path) as service:
        service.create("echo", {"nonce": "string"}, id="kept")
        poolshift.json("db", "backup", "copy.db")
    elsewhere = f"sqlite+aiosqlite:///{tmp_path / 'elsewhere.db'}"
    told = poolshift.json("db", "restore", "copy.db", "--yes", DATABASE_URL=elsewhere)
    assert told["before"] == "nothing"
    with running_service(tmp_path, DATABASE_URL=elsewhere) as service:
        assert programs(service) == {"kept"}


def test_what_is_no_sound_copy_is_refused(tmp_path: Path, poolshift: Poolshift) -> None:
    """Before anything is changed: a word is wanted, and a damaged or foreign file stays where it is."""
    with running_service(tmp_path) as service:
        service.create("echo", {"nonce": "string"}, id="kept")
        poolshift.json("db", "backup", "copy.db")
    copy = tmp_path / "copy.db"
    assert "--yes restores it" in poolshift.fails(1, "db", "restore", "copy.db")
    assert "copy.db is there already" in poolshift.fails(4, "db", "backup", "copy.db")
    (tmp_path / "note.txt").write_text("no database " * 500)
    damaged = bytearray(copy.read_bytes())
    damaged[len(damaged) // 2 :] = os.urandom(len(damaged) - len(damaged) // 2)
    (tmp_path / "damaged.db").write_bytes(damaged)
    for name in ("note.txt", "damaged.db", "absent.db"):
        assert name in poolshift.fails(1, "db", "check", name)
        assert name in poolshift.fails(1, "db", "restore", name, "--yes")
    with running_service(tmp_path) as service:
        assert programs(service) == {"kept"}


@pytest.mark.parametrize(
    ("arguments", "tool"), [("backup copy", "pg_dump"), ("restore copy", "pg_restore"), ("check", "pg_amcheck")]
)
def test_postgresql_has_tools_of_its_own(poolshift: Poolshift, arguments: str, tool: str) -> None:
    """The line names the tool, with no part of the URL."""
    told = poolshift.fails(2, "db", *arguments.split(), DATABASE_URL="postgresql+asyncpg://u:secret@127.0.0.1/x")
    assert tool in told
    assert "secret" not in told
