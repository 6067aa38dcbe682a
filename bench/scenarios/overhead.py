"""Measures the overhead of a contender: a program that does next to nothing, as many calls as possible."""

from collections.abc import Mapping

from bench.arena import RAMP, UNCOMPILED, UNOBSERVED, V2, Arena
from bench.contenders import EXECUTOR, IN_PROCESS, LITSERVE, MOSECS
from bench.outcome import (
    Figure,
    Goal,
    Loads,
    Outcome,
    at_least,
    at_most,
    greatest_ratio,
    least_ratio,
    median,
    ratio,
    server_cpu,
)
from bench.servers import Server
from bench.workloads import IDEMPOTENT

_MOSECS = [one.name for one in MOSECS]
_CPU = "processor time of all processes per call, trivial program, against mosec"


def run(arena: Arena) -> Outcome:
    """Poolshift in six ways, and every peer."""
    ours = [arena.v2(), arena.ramp(), arena.replicas(), arena.v1(), arena.unobserved(), arena.uncompiled()]
    plan = arena.plan
    with arena.running([*ours, *arena.peers()], IDEMPOTENT, plan.workers) as servers:
        loads = arena.compare_running(servers, IDEMPOTENT, plan.connections)
        shadows = _shadow_calls(servers)
    return Outcome(
        scenario="overhead",
        conditions=f"trivial program, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        figures=[
            Figure("shadow calls that ran amid the ramp", shadows, ""),
            Figure(f"processor time of a call in V2 less that in {IN_PROCESS.name}", _isolation(loads), "µs"),
        ],
        goals=_goals(loads),
        notes=[
            "The better of mosec's rows counts for a goal. By default mosec writes indented JSON with Python's json.",
            f"{IN_PROCESS.name}: nothing isolates it. A program that crashes, hangs or leaks takes the server along.",
            "The difference between V2 and it is the cost of isolation, less what FastAPI costs beyond our endpoint.",
        ],
    )


def _shadow_calls(servers: Mapping[str, Server]) -> float:
    return float(servers[RAMP].client.get("/shadow").json()["compared"])


def _isolation(loads: Loads) -> float:
    return median(loads[V2], server_cpu) - median(loads[IN_PROCESS.name], server_cpu)


def _goals(loads: Loads) -> list[Goal]:
    text = "throughput, everything on, against mosec"
    return [
        at_least(text, 1.4, least_ratio(loads, V2, _MOSECS), contender=V2),
        at_least(text, 1.3, least_ratio(loads, RAMP, _MOSECS), contender=RAMP),
        at_most(_CPU, 0.65, greatest_ratio(loads, V2, _MOSECS, server_cpu), contender=V2),
        at_least(f"against {EXECUTOR.name}", 4, ratio(loads, V2, EXECUTOR.name), contender=V2),
        at_least("against LitServe", 10, ratio(loads, V2, LITSERVE.name), contender=V2),
        at_least("observability on against off", 0.9, ratio(loads, V2, UNOBSERVED), contender=V2),
        at_least(text, 1, least_ratio(loads, UNCOMPILED, _MOSECS), contender=UNCOMPILED),
    ]
