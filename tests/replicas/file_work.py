"""The work of processes that share one SQLite file (`tests/support/sharers.py`)."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import text

from common.background import Background
from poolshift.worker.definitions import Definition, Signature
from routing.catalog.idempotency import KeyedCall
from routing.catalog.owners import Editor
from routing.catalog.programs import NewProgram, ProgramUse
from routing.catalog.revisions import Precondition
from routing.catalog.sessions import SessionUse
from routing.errors import StaleProgram, StaleRevision, StoreUnavailable
from routing.migration.usage import DayOfTimes
from routing.rollout.model import Change, Source
from routing.rollout.ramp import Ramp
from routing.rollout.ramp_store import ReplicaReport, StaleRamp
from routing.versions import Version
from store.database import Database
from store.follower import Follower
from store.key_store import SqlKeyStore
from store.migration_store import SqlUsageStore
from store.outbox import SqlOutbox
from store.program_store import SqlProgramStore
from store.ramp_store import SqlRampStore
from store.rollout_log import SqlRolloutLog
from store.session_store import SqlSessionStore
from tests.support.sharers import Sharer
from tests.support.waiting import wait_until, wait_until_async

LEASE_EVERY_S = 0.2
DAY = "2026-01-01"
PROGRAM = NewProgram("p", None, Definition("python", Signature((), ()), "examples.text:keywords"))


@asynccontextmanager
async def opened(sharer: Sharer) -> AsyncIterator[Database]:
    """The database of a process, open as long as the block runs."""
    database = sharer.database()
    await database.migrate()
    try:
        yield database
    finally:
        await database.aclose()


async def add_up(sharer: Sharer, rounds: str) -> None:
    """Adds to the same rows, by statements and by reading first, from several tasks at once."""
    async with opened(sharer) as database:
        programs, sessions, usage = SqlProgramStore(database), SqlSessionStore(database), SqlUsageStore(database)
        stored = await programs.find("p", None)
        assert stored is not None
        key = stored.program.key

        async def write() -> None:
            for _ in range(int(rounds)):
                await programs.add_uses({key: ProgramUse(2, 1.0)})
                await sessions.add_uses({"s": SessionUse(1.0, 1.0, Version.V2, 3)})
                await usage.add([], [DayOfTimes(DAY, Version.V1, (1, 0, 2), 0.5, 0.25)])

        await asyncio.gather(write(), write())


async def append_revisions(sharer: Sharer, rounds: str) -> None:
    """Appends to the rollout's log and to the ramp's, each time after the newest revision that it knows."""
    async with opened(sharer) as database:
        log, ramps = SqlRolloutLog(database), SqlRampStore(database, notifies=True)
        rollout, ramp = 0, 0
        for number in range(int(rounds)):
            try:
                made = await log.append(Change(number, Source.API, f"writer {sharer.index}"), after=rollout)
                rollout = made.revision
                sharer.say(rollout=rollout)
            except StaleRevision as error:
                rollout = error.current.revision
            try:
                ramp = (await ramps.append(Ramp(step=number % 2), after=ramp)).revision
                sharer.say(ramp=ramp)
            except StaleRamp as error:
                ramp = error.current.revision


async def replace_definitions(sharer: Sharer, rounds: str) -> None:
    """Replaces one program, each time in place of the revision that it knows."""
    async with opened(sharer) as database:
        programs, revision = SqlProgramStore(database), 1
        for number in range(int(rounds)):
            definition = msgspec.structs.replace(PROGRAM.definition, instructions=f"{sharer.index}.{number}")
            new = NewProgram("p", None, definition, Editor(str(sharer.index)))
            try:
                put = await programs.put(new, Precondition(revision=revision))
                revision = put.stored.program.revision
                sharer.say(revision=revision, instructions=definition.instructions)
            except StaleProgram as error:
                revision = error.revision or 0


async def lead(sharer: Sharer) -> None:
    """Reports and asks for the lease until it is killed."""
    async with opened(sharer) as database:
        store, name = SqlRampStore(database, notifies=False), f"replica {sharer.index}"
        while True:
            exchange = await store.exchange(ReplicaReport(name, datetime.now(UTC), 1, (0, 0)), "g", None)
            sharer.say(leads=exchange.is_leader, at=time.monotonic())
            await asyncio.sleep(LEASE_EVERY_S)


async def follow(sharer: Sharer, rounds: str) -> None:
    """Announces changes, and follows those of all; tells what it has followed once it has all of them."""
    async with opened(sharer) as database:
        background, follower = Background(), Follower(database, Background())
        followed: list[str] = []

        async def note(ref: str) -> None:
            followed.append(ref)
            await asyncio.sleep(0)

        await follower.mark()
        follower.start({"rollout": note, "session_begun": note}, _fail)
        await until_all_are_here(sharer, database)
        database.on_announced = follower.wake
        sessions = SqlSessionStore(database)
        for number in range(int(rounds)):
            await sessions.begin_again(f"{sharer.index}.{number}")
        while len(followed) < int(rounds) * sharer.count:
            await follower.catch_up()
        sharer.say(followed=followed)
        await follower.aclose()
        await background.aclose()


async def until_all_are_here(sharer: Sharer, database: Database) -> None:
    """Waits until every process has come so far."""
    store = SqlRampStore(database, notifies=False)

    async def are_here() -> bool:
        report = ReplicaReport(str(sharer.index), datetime.now(UTC), 1, (0, 0))
        return len((await store.exchange(report, "g", None)).replicas) == sharer.count

    await wait_until_async(are_here, "all have opened the database")


async def _fail() -> None:
    raise AssertionError("no change can have been missed")


async def claim_keys(sharer: Sharer, keys: str) -> None:
    """Claims the same keys as all others, ten at a time in an order of its own; takes over those whose call is lost."""
    async with opened(sharer) as database:
        store = SqlKeyStore(database)
        await until_all_are_here(sharer, database)

        async def claim(number: int) -> None:
            call = KeyedCall.new(None, f"key-{number}", "f", f"{sharer.index}-{number}")
            if await store.claim(call, 3600.0):
                sharer.say(claimed=number)
                return
            first = await store.find(call, 3600.0)
            if first is not None and not first.is_alive and await store.take_over(first, call):
                sharer.say(taken_over=number)

        numbers = iter(random.Random(sharer.index).sample(range(int(keys)), int(keys)))

        async def work() -> None:
            for number in numbers:
                await claim(number)

        await asyncio.gather(*(work() for _ in range(10)))


async def deliver(sharer: Sharer) -> None:
    """Delivers notifications as long as there are any, several at a time."""
    async with opened(sharer) as database:
        outbox = SqlOutbox(database)
        await until_all_are_here(sharer, database)

        async def work() -> None:
            while (notification := await outbox.claim(for_s=3600.0)) is not None:
                sharer.say(delivered=notification.key)
                await outbox.delivered(notification.key)

        await asyncio.gather(*(work() for _ in range(3)))


async def write_for(sharer: Sharer, seconds: str) -> None:
    """Writes all the time, as large a share as it gets, and reads beside it; tells how long each took, in ms."""
    async with opened(sharer) as database:
        log, sessions = SqlRolloutLog(database), SqlSessionStore(database)
        written: list[float] = []
        read: list[float] = []
        await until_all_are_here(sharer, database)
        end = time.monotonic() + float(seconds)

        async def write() -> None:
            while time.monotonic() < end:
                begun = time.perf_counter()
                await log.saw("file", str(sharer.index))
                written.append((time.perf_counter() - begun) * 1000)

        async def look() -> None:
            while time.monotonic() < end:
                begun = time.perf_counter()
                await sessions.find("s")
                read.append((time.perf_counter() - begun) * 1000)
                await asyncio.sleep(0.01)

        await asyncio.gather(write(), look())
        sharer.say(written=written, read=read)


async def keep_writing(sharer: Sharer) -> None:
    """Writes until it is killed, and tells each row that is acknowledged."""
    async with opened(sharer) as database:
        number = 0
        while True:
            number += 1
            await insert(database, sharer.index, number)
            sharer.say(acknowledged=number)


async def write_until(sharer: Sharer, flag: str) -> None:
    """Does as `keep_writing` until there is a file, and then waits to be killed."""
    async with opened(sharer) as database:
        number = 0
        while not await asyncio.to_thread(Path(flag).exists):
            number += 1
            await insert(database, sharer.index, number)
            sharer.say(acknowledged=number)
        sharer.say(rests=True)
        await asyncio.Event().wait()


async def insert(database: Database, writer: int, number: int) -> None:
    """Stores a row of some pages, in two steps that belong together."""
    values = {"name": f"{writer}.{number}", "value": b"x" * 20_000}
    async with database.transaction() as connection:
        await connection.execute(text("INSERT INTO service_secrets VALUES (:name, '')"), values)
        await connection.execute(text("UPDATE service_secrets SET value = :value WHERE name = :name"), values)


async def open_when(sharer: Sharer, flag: str) -> None:
    """Opens the database, the second process only when there is a file; tells how that went; waits to be killed."""
    if sharer.index > 0:
        await asyncio.to_thread(wait_until, Path(flag).exists, "there is the file")
    try:
        async with opened(sharer):
            sharer.say(opened=True)
            await asyncio.Event().wait()
    except StoreUnavailable as error:
        sharer.say(refused=str(error))
        await asyncio.Event().wait()
