"""100 kB in and the same out: what copying and parsing cost."""

from bench.arena import FRONTS, V2, Arena, settings_of
from bench.contenders import MOSECS
from bench.outcome import Outcome, at_least, least_ratio
from bench.plan import FEW_ROUNDS
from bench.workloads import PAYLOAD


def run(arena: Arena) -> Outcome:
    """V2 without and with fronts, and every peer."""
    plan = arena.plan
    loads = arena.compare([arena.v2(), arena.fronts(), *arena.peers()], PAYLOAD, rounds=plan.few_rounds)
    mosecs = [one.name for one in MOSECS]
    return Outcome(
        scenario="payload",
        conditions=f"100 kB in, 100 kB out, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        settings=settings_of(loads),
        goals=[
            at_least("100 kB in and out, against mosec", 1, least_ratio(loads, ours, mosecs), contender=ours)
            for ours in (V2, FRONTS)
        ],
        notes=[f"At most {FEW_ROUNDS} rounds."],
    )
