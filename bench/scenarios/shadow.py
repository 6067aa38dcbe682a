"""Measures the cost of shadow calls for those who pay none: V1 at its peak, without and with a copy of every call."""

from dataclasses import replace

from bench.arena import V1, Arena
from bench.contenders import Poolshift
from bench.outcome import Figure, Goal, Loads, Outcome, at_least, at_most, p99, ratio
from bench.servers import Server
from bench.workloads import BLOCKING, IDEMPOTENT, Workload

WITHOUT, WITH = "no shadow calls", "100 % shadow calls"


def run(arena: Arena) -> Outcome:
    """A program that computes, so that the processors are full, and one that waits, so that they are idle."""
    computing, _ = _measure(arena, IDEMPOTENT)
    waiting, shadows = _measure(arena, replace(BLOCKING, is_idempotent=True))
    plan = arena.plan
    loads = {f"{name}, computing": rounds for name, rounds in computing.items()}
    loads |= {f"{name}, waiting": rounds for name, rounds in waiting.items()}
    return Outcome(
        scenario="shadow",
        conditions=f"trivial and blocking program, {plan.workers} workers a version, {plan.connections} connections",
        loads=loads,
        reference=f"{WITHOUT}, computing",
        figures=[Figure("shadow calls that ran beside the waiting program", shadows, "")],
        goals=[*_goals("computing", computing), *_goals("waiting", waiting)],
    )


def _goals(kind: str, loads: Loads) -> list[Goal]:
    calls, latency = ratio(loads, WITH, WITHOUT), ratio(loads, WITH, WITHOUT, p99)
    return [
        at_least(f"throughput with shadow calls, {kind}", 0.95, calls, contender=V1),
        at_most(f"p99 with shadow calls, {kind}", 1.05, latency, contender=V1),
    ]


def _measure(arena: Arena, workload: Workload) -> tuple[Loads, float]:
    """Returns the loads of both, and the number of shadow calls that were compared."""
    contenders = [_service(arena, WITHOUT, 0), _service(arena, WITH, 100)]
    with arena.running(contenders, workload, arena.plan.workers) as servers:
        loads = arena.compare_running(servers, workload, arena.plan.connections)
        return loads, _compared(servers[WITH])


def _service(arena: Arena, name: str, percent: int) -> Poolshift:
    """V1 has V2's engine, so that its peak is one; V2 has as many workers."""
    workers = str(arena.plan.workers)
    settings = {
        "ENGINE": "session_pool_v2",
        "CANARY_PERCENT": "0",
        "SHADOW_PERCENT": str(percent),
        "V1_POOL_SIZE": workers,
        "V2_POOL_SIZE": workers,
    }
    return Poolshift(name, v1_share=1, settings=settings, collector_url=arena.collector_url)


def _compared(server: Server) -> float:
    return float(server.client.get(server.url("/shadow")).json()["compared"])
