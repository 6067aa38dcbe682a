"""100 kB in and the same out: what copying and parsing cost."""

from bench.arena import V2, Arena
from bench.contenders import MOSECS
from bench.outcome import Outcome, at_least, least_ratio
from bench.plan import FEW_ROUNDS
from bench.workloads import PAYLOAD


def run(arena: Arena) -> Outcome:
    """V2 and every peer."""
    plan = arena.plan
    loads = arena.compare([arena.v2(), *arena.peers()], PAYLOAD, rounds=plan.few_rounds)
    mosecs = [one.name for one in MOSECS]
    return Outcome(
        scenario="payload",
        conditions=f"100 kB in, 100 kB out, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        goals=[at_least("100 kB in and out, against mosec", 1, least_ratio(loads, V2, mosecs), contender=V2)],
        notes=[f"At most {FEW_ROUNDS} rounds."],
    )
