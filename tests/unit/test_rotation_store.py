"""A rotation in the database: a service that is killed at any moment of it leaves all or nothing of it there."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import event

from pools.calls import Program
from poolshift.worker.definitions import Definition, Field, Signature
from poolshift.worker.lm import LMSettings
from routing.catalog.deleted_programs import DeletedPrograms
from routing.catalog.lms import Holder, LMs, NewLM
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, Programs
from routing.errors import StaleRevision
from routing.rollout.model import Change, Source
from routing.rotation.store import Former
from routing.rotation.trial import End, Outcome
from routing.versions import Version
from store.database import Database
from store.deleted_program_store import SqlDeletedProgramStore
from store.lm_store import SqlLMStore
from store.program_store import SqlProgramStore
from store.rollout_log import SqlRolloutLog
from store.rotation_store import SqlRotationStore
from store.secret_box import SecretBox

IDS = ("one", "two", "three")
ROTATION = Change(0, Source.ROTATION, "ops", "python 3.11 → 3.13", v1_pool="{}")
NEW_LM = LMSettings("openai/new", None, None)
BEFORE = (("old", "new"),) * len(IDS), "none", 1
AFTER = (("new", None),) * len(IDS), "openai/new", 2
BACK = Change(0, Source.ROTATION, "ops", "unrotated", v1_pool="{}")
FORMER = Former({"engine": "session_pool"}, "abc", "v2")
END = End(Outcome.UNROTATED, "ops", "it fails", datetime(2026, 1, 1, tzinfo=UTC))
TAKEN_BACK = *BEFORE[:2], 3
KILLED = 9
MANY = 100
"""More statements than a rotation has."""


def new(program_id: str, instructions: str) -> NewProgram:
    signature = Signature((Field("text", "string"),), (Field("result", "string"),))
    definition = Definition("python", signature, "examples.text:keywords", instructions)
    return NewProgram(program_id, None, definition, Editor("ops"))


def inherited(lms: LMs) -> NewLM:
    """V2's LM for V1, as the service gives it at a rotation."""
    lm = lms.inherited()
    assert lm is not None
    return lm


async def open_lms(database: Database) -> LMs:
    lms = LMs(SqlLMStore(database), LMSettings("none", None, None), None)
    await lms.load()
    return lms


async def prepare(database: Database) -> None:
    """Three programs of which V2 has definitions of its own, an LM of V2's, and 100 %."""
    await database.migrate()
    programs = Programs(SqlProgramStore(database))
    for program_id in IDS:
        await programs.add(new(program_id, "old"))
        await programs.put_v2(new(program_id, "new"))
    await (await open_lms(database)).put(Holder(version=Version.V2), NEW_LM, "ops")
    await SqlRolloutLog(database).append(Change(10_000, Source.API, "ops"), after=0)


async def rotate(database: Database) -> None:
    lms = await open_lms(database)
    await SqlRotationStore(database, SqlLMStore(database)).rotate(ROTATION, after=1, lm=inherited(lms), former=FORMER)


async def take_back(database: Database) -> None:
    await SqlRotationStore(database, SqlLMStore(database)).take_back(BACK, after=2, rotation=2, end=END)


async def found(database: Database) -> tuple[tuple[tuple[str | None, str | None], ...], str, int]:
    """The instructions of V1 and V2, V1's LM, and the newest revision, as a start reads them."""
    programs = Programs(SqlProgramStore(database))
    await programs.load()
    told = []
    for program_id in IDS:
        program = programs.resolve(program_id, None)
        assert program is not None
        told.append((_instructions(program), _instructions(program.v2)))
    latest = await SqlRolloutLog(database).latest()
    assert latest is not None
    model = (await open_lms(database)).shown(None, Version.V1).settings.model
    return tuple(told), model, latest.revision


def _instructions(program: Program | None) -> str | None:
    return None if program is None else program.definition.instructions


def in_service(path: Path, work: Callable[[Database], Any]) -> Any:
    """Runs `work` on a database, as a service that starts."""

    async def opened() -> Any:
        database = Database(f"sqlite+aiosqlite:///{path}")
        try:
            return await work(database)
        finally:
            await database.aclose()

    return asyncio.run(opened())


Work = Callable[[Database], Any]


def killed_at(path: Path, work: Work, statement: int) -> bool:
    """Works in a process that kills itself before a statement; False if the work has fewer ones."""
    child = os.fork()
    if child == 0:
        _work_and_die(path, work, statement)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) == KILLED


def _work_and_die(path: Path, work: Work, statement: int) -> None:
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            os.kill(os.getpid(), KILLED)

    async def counted(database: Database) -> None:
        event.listen(database._engine.sync_engine, "before_cursor_execute", count)
        event.listen(database._engine.sync_engine, "commit", count)
        await work(database)

    try:
        in_service(path, counted)
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_a_kill_leaves_all_or_nothing(tmp_path: Path) -> None:
    """Before each statement and before each commit, of a rotation and of its undo; the next try goes on from there."""
    path = tmp_path / "poolshift.db"
    in_service(path, prepare)
    for work, before, after in ((rotate, BEFORE, AFTER), (take_back, AFTER, TAKEN_BACK)):
        statement = 1
        while killed_at(path, work, statement):
            assert in_service(path, found) == before, statement
            statement += 1
            assert statement < MANY
        assert statement > len(IDS) * 3
        assert in_service(path, found) == after


def test_the_former_lm_comes_back_with_its_key(tmp_path: Path) -> None:
    """Sealed all the time, and in nobody's hands meanwhile; one that was set after the rotation stays."""
    path, keys = tmp_path / "poolshift.db", [Fernet.generate_key()]
    former = LMSettings("openai/former", None, "sk-former")

    async def work(database: Database) -> None:
        await prepare(database)
        store = SqlLMStore(database, SecretBox(keys))
        lms = LMs(store, LMSettings("none", None, None), None)
        await lms.put(Holder(version=Version.V1), former, "ops")
        await lms.load()
        rotations = SqlRotationStore(database, store)
        await rotations.rotate(ROTATION, after=1, lm=inherited(lms), former=FORMER)
        assert [one.settings.model for one in await store.load()] == ["openai/new"] * 2
        taken = await rotations.take_back(BACK, after=2, rotation=2, end=END)
        assert (taken.has_lm, taken.keeps_lm) == (True, False)
        assert taken.lm is not None
        assert taken.lm.settings == former
        lms.take(taken.lm)
        await rotations.rotate(ROTATION, after=3, lm=inherited(lms), former=FORMER)
        await lms.put(Holder(version=Version.V1), LMSettings("openai/later", None, None), "ops")
        taken = await rotations.take_back(BACK, after=4, rotation=4, end=END)
        assert (taken.has_lm, taken.keeps_lm) == (False, True)

    in_service(path, work)
    assert b"sk-former" not in path.read_bytes()


def test_a_rotation_that_is_overtaken_changes_nothing(tmp_path: Path) -> None:
    """Somebody has changed the percentage meanwhile."""
    path = tmp_path / "poolshift.db"
    in_service(path, prepare)

    async def overtake(database: Database) -> None:
        await SqlRolloutLog(database).append(Change(500, Source.API, "ops"), after=1)
        with pytest.raises(StaleRevision):
            await rotate(database)

    in_service(path, overtake)
    programs, model, revision = in_service(path, found)
    assert (programs, model, revision) == (*BEFORE[:2], 2)


def test_a_deleted_program_gets_its_former_definition_back(tmp_path: Path) -> None:
    """A restore after the undo brings V1's back, with V2's own; one that was changed after the rotation is named."""
    path = tmp_path / "poolshift.db"
    in_service(path, prepare)

    async def work(database: Database) -> None:
        await rotate(database)
        programs = Programs(SqlProgramStore(database))
        await programs.load()
        await programs.put(new("two", "newer"))
        deleted = DeletedPrograms(programs, SqlDeletedProgramStore(database), grace_s=3600)
        for program_id in ("one", "two"):
            await deleted.delete(await programs.show_own(program_id, None), Editor("ops"))
        taken = await SqlRotationStore(database, SqlLMStore(database)).take_back(BACK, after=2, rotation=2, end=END)
        assert [one.program.id for one in taken.programs] == ["three"]
        assert taken.kept == ["two"]
        for program_id in ("one", "two"):
            await deleted.restore(await deleted.find(program_id, None, Editor("ops")), None)
        page = await programs.revisions("one", None, limit=9, max_bytes=9**9, before=None)
        assert [one.revision for one in page.revisions] == [3, 2, 1]

    in_service(path, work)
    told, _, _ = in_service(path, found)
    assert told == (("old", "new"), ("newer", None), ("old", "new"))
