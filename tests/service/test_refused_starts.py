"""Starts: a refused one leaves the service that runs, its database and its calls as they were before."""

import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.listening import CannotListen, PortTaken, listen
from app.version import VERSION
from tests.conftest import StartService
from tests.service.test_async_executions import HOLD, end_of, running, show
from tests.service.test_async_executions import start as start_long_run
from tests.service.test_errors import problem
from tests.support.database import copy_migrated
from tests.support.replicas import COUNT, have_said, said_once
from tests.support.service import POOLSHIFT, ROOT, Service, is_alive
from tests.support.waiting import wait_until

PROGRAM = {
    "program_type": "python",
    "entrypoint": "tests.support.programs:echo",
    "signature": {"inputs": [{"name": "nonce", "type": "string"}], "outputs": [{"name": "result", "type": "string"}]},
}


def refused(directory: Path, **settings: Any) -> tuple[int, str]:
    """The exit code and the log of a start that comes to nothing."""
    directory.mkdir(exist_ok=True)
    service = Service(directory, **settings)
    try:
        service.start(wait=False)
        return service.wait_for_end(), service.log()
    finally:
        service.close()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_ends_the_start_before_anything_is_touched(start_service: StartService, tmp_path: Path) -> None:
    """On the database of a service that runs: its rollout, its history and its long run are as they were."""
    database = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    service = start_service(DATABASE_URL=database, CANARY_PERCENT=10)
    place = start_long_run(service, service.create("hold", HOLD), {"directory": str(tmp_path), "name": "a"})
    running(tmp_path, "a")
    history = service.client.get("/rollout/history").json()

    exit_code, log = refused(tmp_path / "second", PORT=service.port, DATABASE_URL=database, CANARY_PERCENT=50)
    assert exit_code == 4
    assert log == f"poolshift: HOST=127.0.0.1 PORT={service.port}: cannot listen there: Address already in use\n"

    assert service.client.get("/rollout/history").json() == history
    assert show(service, place)["status"] == "running"
    (tmp_path / "go").touch()
    assert end_of(service, place)["status"] == "succeeded"


def test_a_taken_port_leaves_no_database_behind(taken_port: int, tmp_path: Path) -> None:
    """Not even an empty file."""
    exit_code, _ = refused(tmp_path / "service", PORT=taken_port)
    assert exit_code == 4
    assert [path.name for path in (tmp_path / "service").iterdir()] == ["service.log"]


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b"])
def test_an_address_that_is_not_ours(tmp_path: Path, host: str) -> None:
    """The exit code is 2, an error of the environment, and one line names the setting."""
    exit_code, log = refused(tmp_path / "service", HOST=host, ALLOW_ANONYMOUS="true")
    assert exit_code == 2
    assert log.startswith(f"poolshift: HOST={host}")
    assert log.count("\n") == 1


BROKEN = {
    "broken": ("def f():\n    raise ValueError('one\\ntwo')\n\nf()\n", "ValueError: one two (broken.py, line 2)"),
    "needs": ("import not_installed\n", "ModuleNotFoundError: No module named 'not_installed' (needs.py, line 1)"),
    "unfinished": ("def f(:\n", "SyntaxError: invalid syntax (unfinished.py, line 1)"),
    "leaves": ("raise SystemExit('bye')\n", "SystemExit: bye (leaves.py, line 1)"),
}


@pytest.mark.parametrize(
    ("modules", "missing"), [("shpo", "shpo"), ("examples,shop.prices", "shop.prices"), ("examples.no", "examples.no")]
)
def test_a_module_of_programs_that_is_not_there(tmp_path: Path, modules: str, missing: str) -> None:
    """One line names it; a module of another name does not help."""
    directory = tmp_path / "service"
    directory.mkdir()
    (directory / "shop.py").write_text("")
    exit_code, log = refused(directory, PROGRAM_MODULES=modules)
    assert exit_code == 3
    for line in said_once(log, "PROGRAM_MODULES"):
        assert f"PROGRAM_MODULES={modules}: the module '{missing}' is not found" in line
    assert "Traceback" not in log


def _no_database(directory: Path) -> None:
    (directory / "poolshift.db").write_text("this is not a database, and longer than its header would be\n" * 20)


def _no_text(directory: Path) -> None:
    (directory / ".env").write_bytes(b"\xff\xfe")


def _nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "settings", "exit_code", "says"),
    [
        (_no_database, {}, 3, "cannot open the database: file is not a database (DATABASE_URL=sqlite+aiosqlite:///"),
        (_nothing, {"DATABASE_URL": "sqlite+aiosqlite:////proc/nothing/x.db"}, 3, "(DATABASE_URL=sqlite+aiosqlite:"),
        (_nothing, {"DATABASE_URL": "postgresql+asyncpg://u:secret@127.0.0.1:1/x"}, 3, "u:***@127.0.0.1:1/x)"),
        (_nothing, {"V1_WORKER_ENV_FILE": "/nowhere"}, 2, "WORKER_ENV_FILE=/nowhere: No such file or directory"),
        (_no_text, {}, 2, ".env: this file is not UTF-8 text"),
    ],
)
def test_a_start_that_fails_names_the_setting(
    tmp_path: Path, prepare: Callable[[Path], None], settings: dict[str, str], exit_code: int, says: str
) -> None:
    """In one line, without a traceback or a secret."""
    directory = tmp_path / "service"
    directory.mkdir()
    prepare(directory)
    code, log = refused(directory, **settings)
    assert code == exit_code, log
    (line,) = [line for line in log.splitlines() if says in line]
    assert line.startswith("poolshift: ") or "[error" in line
    assert "Traceback" not in log
    assert "secret" not in log
    assert "sqlalche.me" not in log


def test_modules_of_programs_that_fail_on_import(tmp_path: Path) -> None:
    """One line names each of them, with its error and where that was raised, and not the one that works."""
    directory = tmp_path / "service"
    directory.mkdir()
    for name, (code, _) in BROKEN.items():
        (directory / f"{name}.py").write_text(code)
    exit_code, log = refused(directory, PROGRAM_MODULES=",".join(["examples", *BROKEN]))
    assert exit_code == 3
    for line in said_once(log, "PROGRAM_MODULES"):
        for name, (_, fault) in BROKEN.items():
            assert f"the module '{name}' fails on import: {fault}" in line
        assert "module 'examples'" not in line
    assert "Traceback" not in log


def test_a_module_of_programs_that_ends_its_process(tmp_path: Path) -> None:
    """The start is told which one it was; the modules before it are in order."""
    directory = tmp_path / "service"
    directory.mkdir()
    (directory / "ends.py").write_text("import os\nos._exit(0)\n")
    exit_code, log = refused(directory, PROGRAM_MODULES="examples,ends,examples.text")
    assert exit_code == 3
    assert "PROGRAM_MODULES=examples,ends,examples.text: the module 'ends' ends the process that imports it" in log


def test_what_a_module_starts_ends_with_its_trial(start_service: StartService, tmp_path: Path) -> None:
    """Prints, threads and daemons of a module neither disturb the start nor outlive it."""
    (tmp_path / "busy.py").write_text(BUSY)
    service = start_service(PROGRAM_MODULES="busy", PYTHONPATH=tmp_path)
    pids = [int(path.suffix[1:]) for path in service.directory.glob("daemon.*")]
    assert len(pids) == COUNT
    assert not any(is_alive(pid) for pid in pids)
    assert "said on import" not in service.log()


BUSY = """
import os, pathlib, threading, time
print("said on import", flush=True)
threading.Thread(target=time.sleep, args=(600,)).start()
if os.fork() == 0:
    os.setsid()
    pathlib.Path(f"daemon.{os.getpid()}").touch()
    time.sleep(600)
while not list(pathlib.Path().glob("daemon.*")):
    time.sleep(0.01)
"""


def test_localhost_is_every_address_that_it_names() -> None:
    """On one port, also where any free one will do; a second one that listens there is told that it is taken."""
    sockets = listen("localhost", 0)
    try:
        port = sockets[0].getsockname()[1]
        assert {sock.getsockname()[1] for sock in sockets} == {port}
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(PortTaken):
            listen("127.0.0.1", port)
    finally:
        for sock in sockets:
            sock.close()
    with pytest.raises(CannotListen):
        listen("192.0.2.1", port)


def test_who_connects_while_it_starts_is_answered(tmp_path: Path) -> None:
    """The port is there before the service is; the first answer comes when it serves."""
    service = Service(tmp_path)
    try:
        service.start(wait=False)
        wait_until(lambda: is_listening(service.port), "the port is taken")
        assert service.client.get("/healthz").status_code == 200
    finally:
        service.close()


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        sock.bind(("127.0.0.2", 0))  # a socket that happened to get the port itself would be connected to itself
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_signal_amid_the_start_ends_it_in_order(tmp_path: Path) -> None:
    """Exit code 0, and nothing that looks like a fault."""
    service = Service(tmp_path)
    try:
        service.start(wait=False)
        wait_until(lambda: "Waiting for application startup" in service.log(), "it is starting")
        assert service.stop() == 0
        assert "Traceback" not in service.log()
        assert "[error" not in service.log()
    finally:
        service.close()


def test_the_log_says_where_it_listens(start_service: StartService) -> None:
    """Once; a sigterm still ends it in order."""
    service = start_service(LOG_FORMAT="json")
    listening = f'"urls": ["{service.url}"]'
    wait_until(lambda: listening in service.log(), "it says so")  # of several replicas, it waits for the last
    assert service.log().count(listening) == 1
    assert service.stop(signal.SIGTERM) == 0


def test_a_sqlite_file_has_one_service(start_service: StartService, tmp_path: Path) -> None:
    """A second one, and a migration, are refused in a line; when the first is killed, the next has it at once."""
    database = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    service = start_service(DATABASE_URL=database, CANARY_PERCENT=10)
    history = service.client.get("/rollout/history").json()
    pids = service.worker_pids()

    exit_code, log = refused(tmp_path / "second", DATABASE_URL=database, CANARY_PERCENT=50)
    assert exit_code == 3
    complaint = f"cannot open the database: another process serves {tmp_path / 'test.db'}"
    (line,) = [line for line in log.splitlines() if complaint in line]
    assert "[error" in line
    assert "Traceback" not in log
    for command in (["migrate"], ["db", "upgrade"]):
        migration = subprocess.run(
            [*POOLSHIFT, *command],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database},
            capture_output=True,
            check=False,
        )
        assert (migration.returncode, migration.stderr.decode()) == (3, f"poolshift: {complaint}\n")
    assert service.client.get("/rollout/history").json() == history

    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    third = start_service(DATABASE_URL=database)
    assert third.client.get("/rollout/history").json() == history
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the killed one has left no worker")


def test_a_deleted_database_is_told(start_service: StartService, tmp_path: Path) -> None:
    """The service acknowledges no write that would be lost, and runs programs on.

    A rollback is in force at once, and the service writes it as soon as it can.
    """
    service = start_service(CANARY_PERCENT=100, LOG_FORMAT="json")
    program = service.create("echo", {"nonce": "string"})
    files = list(service.directory.glob("poolshift.db*"))
    for file in files:
        file.rename(tmp_path / file.name)
    refusal = problem(service.client.patch("/rollout", json={"canary_percent": 50}), 503, "store_unavailable")
    assert "poolshift.db is gone" in refusal["detail"]
    problem(service.client.post("/programs", json={**PROGRAM, "id": "lost"}), 503, "store_unavailable")
    wait_until(lambda: "what is to be written is kept in memory" in service.log(), "the log says so")
    assert "poolshift.db is gone" in service.log()
    assert service.execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] == "v2"

    unwritten = problem(service.client.post("/rollout/rollback"), 503, "store_unavailable")
    assert unwritten["detail"].startswith("the rollback is in force on this replica, and will be written")
    assert service.execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] == "v1"
    rollout = service.client.get("/rollout")
    assert (rollout.json()["canary_percent"], rollout.json()["revision"], "etag" in rollout.headers) == (0, 1, False)
    assert not (service.directory / "poolshift.db").exists()

    for file in files:
        (tmp_path / file.name).rename(file)
    wait_until(lambda: service.client.get("/rollout").headers.get("etag") == '"2"', "the rollback is written")
    history = service.client.get("/rollout/history").json()["items"]
    assert [(item["revision"], item["source"]) for item in history] == [(2, "rollback"), (1, "environment")]
    wait_until(lambda: have_said(service.log(), '"event": "rollout changed"'), "each replica says so, once")


@pytest.mark.parametrize("suffixes", [["-wal"], ["-wal", "-shm"]])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_deleted_log_loses_nothing(start_service: StartService, suffixes: list[str], is_replaced: bool) -> None:
    """All acknowledged programs, from before and after, are there after a kill and a new start."""
    service = start_service(LOG_FORMAT="json")
    before = service.create("echo", {"nonce": "string"})
    for suffix in suffixes:
        path = service.directory / f"poolshift.db{suffix}"
        path.unlink()
        if is_replaced:
            path.write_bytes(b"")
    after = [service.create("echo", {"nonce": "string"}) for _ in range(10)]
    wait_until(lambda: have_said(service.log(), "the database's log is gone"), "each replica says so, once")
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    service.start()
    for program in (before, *after):
        assert service.execute(program, inputs={"nonce": "a"}).status_code == 200


def test_a_deleted_log_loses_nothing_of_an_idle_service(start_service: StartService) -> None:
    """Even if nothing is written any more."""
    service = start_service()
    program = service.create("echo", {"nonce": "string"})
    (service.directory / "poolshift.db-wal").unlink()
    wait_until(lambda: has_program(service.directory / "poolshift.db", program), "the log's content is saved")


def has_program(database: Path, program: str) -> bool:
    """Tells if a copy of the database file, without its log, has the program."""
    copy = database.with_name("copy.db")
    copy.write_bytes(database.read_bytes())
    with closing(sqlite3.connect(copy)) as connection:
        try:
            return connection.execute("SELECT 1 FROM programs WHERE id = ?", [program]).fetchone() is not None
        except sqlite3.OperationalError:
            return False  # no table yet: that is in the log, too


@pytest.mark.parametrize(
    ("noted", "taken"), [("7.1.0", "release 7.1.0, which migrated it"), (None, "the release that migrated it")]
)
@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_database_of_a_newer_release(tmp_path: Path, command: str, noted: str | None, taken: str) -> None:
    """One line says which release to take, as that has noted it, and the database is as it was."""
    path = tmp_path / "poolshift.db"
    copy_migrated(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        if noted is not None:
            database.execute("INSERT INTO schema_releases VALUES ('9999', ?, '2030-01-01 00:00:00')", [noted])
        database.commit()
    before = path.read_bytes()
    if command == "serve":
        exit_code, told = refused(tmp_path)
    else:
        words, environment = [*POOLSHIFT, command], {"PATH": os.environ["PATH"]}
        ended = subprocess.run(words, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
        exit_code, told = ended.returncode, ended.stderr
    assert exit_code != 0
    assert "Traceback" not in told
    (line,) = [one for one in told.splitlines() if "cannot open the database" in one]
    assert "its schema 9999 is of a newer release than this one" in line
    assert f"start {taken}, or a newer one" in line
    assert str(path.name) in line
    assert path.read_bytes() == before


def test_a_release_notes_what_it_has_migrated(start_service: StartService) -> None:
    """The first release at a schema is noted, once."""
    service = start_service(command=POOLSHIFT)
    service.stop()
    service.start()
    with closing(sqlite3.connect(service.directory / "poolshift.db")) as database:
        (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        noted = database.execute("SELECT revision, release FROM schema_releases").fetchall()
    assert noted == [(schema, VERSION)]
