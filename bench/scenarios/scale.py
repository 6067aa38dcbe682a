"""Measures a call's cost with many workers, programs and sessions, against few."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from sqlalchemy import insert

from bench import load
from bench.arena import V2, Arena
from bench.load import Load
from bench.outcome import Outcome, at_most, ratio, server_cpu
from bench.servers import Server
from bench.workloads import TRIVIAL
from poolshift.worker.definitions import Definition, Field, Signature
from store.database import Database
from store.tables import GLOBAL, programs

FEW_WORKERS, FEW_PROGRAMS, FEW_SESSIONS = 4, 10, 10
FEW, MANY_SAME, MANY_ALL = "few", "many, the calls of few", "many, calls to all"
_ROWS_AT_ONCE = 5_000


def run(arena: Arena) -> Outcome:
    """A service with little against one with much: first for the same calls, then for calls to all it has."""
    plan = arena.plan
    few_calls = arena.file("few.tsv", _calls(FEW_PROGRAMS, FEW_SESSIONS))
    all_calls = arena.file("all.tsv", _calls(plan.many_programs, plan.many_sessions))

    with (
        _running(arena, FEW_WORKERS, FEW_PROGRAMS) as few,
        _running(arena, plan.many_workers, plan.many_programs) as many,
    ):
        # Every session has been seen and is in the service's memory before anything is measured.
        load.peak_of_lines(many, all_calls, connections=FEW_WORKERS, seconds=2 * plan.seconds)
        which = {FEW: (few, few_calls), MANY_SAME: (many, few_calls), MANY_ALL: (many, all_calls)}
        loads: dict[str, list[Load]] = {name: [] for name in which}
        arena.warm_up(
            [few],
            lambda server, seconds: load.peak_of_lines(server, few_calls, connections=FEW_WORKERS, seconds=seconds),
        )
        for number in range(plan.rounds):
            for name, (server, calls) in which.items():
                seen = load.peak_of_lines(server, calls, connections=FEW_WORKERS, seconds=plan.seconds)
                loads[name].append(seen)
                arena.say(f"  round {number + 1}: {name}: {seen.rps:,.0f}/s, {seen.server_cpu_us:.0f} µs of processor")
    much = f"{plan.many_workers} workers, {plan.many_programs:,} programs, {plan.many_sessions:,} sessions"
    same, to_all = ratio(loads, MANY_SAME, FEW, server_cpu), ratio(loads, MANY_ALL, FEW, server_cpu)
    return Outcome(
        scenario="scale",
        conditions=(
            f"trivial program, V2, {FEW_WORKERS} connections, so that no call waits for a worker; few is "
            f"{FEW_WORKERS} workers, {FEW_PROGRAMS} programs, {FEW_SESSIONS} sessions, many is {much}"
        ),
        loads=loads,
        reference=FEW,
        goals=[
            at_most(f"processor time of a call at {much}, against few", 1.1, same, contender=V2),
            at_most("the same with calls to all of them", 1.1, to_all, contender=V2),
        ],
        notes=[
            "The programs differ by name alone, as every session's own copy of one does: workers load one definition.",
            "Calls to all of them begin anywhere, so that most are their worker's first of that program.",
        ],
    )


def program_id(number: int) -> str:
    """The id of one of the programs."""
    return f"{TRIVIAL.function}-{number}"


def _calls(program_count: int, session_count: int) -> bytes:
    """Requests that go through all sessions and, with long strides, through all programs."""
    lines = []
    for number in range(max(program_count, session_count)):
        body = {"inputs": TRIVIAL.inputs, "session_id": f"session-{number % session_count}"}
        lines.append(f"/programs/{program_id(number * 7919 % program_count)}/execute\t{json.dumps(body)}\n")
    return "".join(lines).encode()


@contextlib.contextmanager
def _running(arena: Arena, workers: int, program_count: int) -> Iterator[Server]:
    database = arena.directory / f"{program_count}.db"
    url = f"sqlite+aiosqlite:///{database}"
    asyncio.run(fill(url, program_count))
    contender = arena.v2(DATABASE_URL=url, QUOTA_PROGRAMS=str(2 * program_count))
    with arena.running([contender], TRIVIAL, workers) as servers:
        yield servers[contender.name]


async def fill(url: str, program_count: int) -> None:
    """Puts the programs into the database; over HTTP each would have its entrypoint tried, which takes minutes."""
    database = Database(url)
    try:
        await database.migrate()
        for first in range(0, program_count, _ROWS_AT_ONCE):
            rows = [_row(number) for number in range(first, min(first + _ROWS_AT_ONCE, program_count))]
            async with database.transaction() as connection:
                await connection.execute(insert(programs), rows)
    finally:
        await database.aclose()


def _row(number: int) -> dict[str, object]:
    signature = Signature((Field("number", "integer"),), (Field("number", "integer"),))
    definition = Definition("python", signature, TRIVIAL.entrypoint)
    return {
        "session_id": GLOBAL,
        "id": program_id(number),
        "definition": msgspec.json.encode(definition).decode(),
        "created_at": datetime.now(UTC),
        "execution_count": 0,
    }
