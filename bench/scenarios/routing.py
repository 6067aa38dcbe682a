"""One routing decision, without HTTP and without a pool: the router's own method on the real flag and recorder."""

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry

from analysis.guardrails import Config
from bench.arena import Arena
from bench.outcome import Figure, Outcome, at_most
from bench.unobserved import SilentRecorder
from pools.protocol import Pool
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.live_judge import LiveJudge
from routing.router import Router
from routing.telemetry.recorder import Recorder
from routing.versions import Version
from store.database import Database
from store.rollout_log import SqlRolloutLog

_CALLS = 20_000
_BATCHES_PER_ROUND = 5
_HALF = 5_000


class _PoolThatIsUp:
    """The part of a pool that a decision asks for."""

    is_down = False

    def when_down(self, listener: Callable[[], None]) -> None:
        pass


def run(arena: Arena) -> Outcome:
    """With a session's id for a key and by chance; with the counting and without."""
    flag = asyncio.run(_flag(arena.directory / "routing.db"))
    off = LiveJudge(Config(), is_off=True)
    judge = LiveJudge(Config())
    judge.percent_changed(_HALF)
    pools = dict.fromkeys(Version, cast("Pool", _PoolThatIsUp()))
    counting = Router(pools, flag, Recorder(CollectorRegistry(), {}), judge=off, pin=None, salt="bench")
    silent = Router(pools, flag, SilentRecorder(CollectorRegistry(), {}), judge=off, pin=None, salt="bench")
    judged = Router(pools, flag, Recorder(CollectorRegistry(), {}), judge=judge, pin=None, salt="bench")
    batches = _BATCHES_PER_ROUND * arena.plan.rounds
    by_session = _nanoseconds(lambda: counting.route("session-4711"), batches)
    by_chance = _nanoseconds(lambda: counting.route(None), batches)
    with_judge = _nanoseconds(lambda: judged.route("session-4711"), batches)
    uncounted = _nanoseconds(lambda: silent.route("session-4711"), batches)
    return Outcome(
        scenario="routing",
        conditions=f"50 % on V2, the median of {batches} times {_CALLS:,} decisions, a call of a lambda included",
        figures=[
            Figure("one decision by session", by_session, "ns"),
            Figure("one decision by chance", by_chance, "ns"),
            Figure("one decision by session, uncounted", uncounted, "ns"),
            Figure("one decision by session, judged", with_judge, "ns"),
        ],
        goals=[at_most("one routing decision, rollout read included", 1, max(by_session, by_chance) / 1000, " µs")],
    )


async def _flag(path: Path) -> RolloutFlag:
    database = Database(f"sqlite+aiosqlite:///{path}")
    try:
        await database.migrate()
        return await open_flag(SqlRolloutLog(database), _HALF)
    finally:
        await database.aclose()


def _nanoseconds(decide: Callable[[], object], batches: int) -> float:
    times = []
    for _ in range(batches):
        began = time.perf_counter_ns()
        for _ in range(_CALLS):
            decide()
        times.append((time.perf_counter_ns() - began) / _CALLS)
    return statistics.median(times)
