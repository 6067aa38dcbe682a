"""Measures the overhead of a contender: a program that does next to nothing, as many calls as possible."""

from bench.arena import UNOBSERVED, V2, Arena
from bench.contenders import EXECUTOR, LITSERVE, MOSEC
from bench.outcome import Outcome, at_least, ratio
from bench.workloads import TRIVIAL


def run(arena: Arena) -> Outcome:
    """Poolshift in three ways, and every peer."""
    loads = arena.compare([arena.v2(), arena.v1(), arena.unobserved(), *arena.peers()], TRIVIAL)
    plan = arena.plan
    return Outcome(
        scenario="overhead",
        conditions=f"trivial program, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        goals=[
            at_least("throughput, everything on, against mosec", 1.1, ratio(loads, V2, MOSEC.name)),
            at_least(f"against {EXECUTOR.name}", 4, ratio(loads, V2, EXECUTOR.name)),
            at_least("against LitServe", 10, ratio(loads, V2, LITSERVE.name)),
            at_least("observability on against off", 0.9, ratio(loads, V2, UNOBSERVED)),
        ],
    )
