"""100 kB in and the same out: what copying and parsing cost."""

from bench.arena import V2, Arena
from bench.outcome import Outcome
from bench.workloads import PAYLOAD

MOST_ROUNDS = 2
"""The contenders differ by more than the rounds do."""


def run(arena: Arena) -> Outcome:
    """V2 and every peer."""
    plan = arena.plan
    loads = arena.compare([arena.v2(), *arena.peers()], PAYLOAD, rounds=min(plan.rounds, MOST_ROUNDS))
    return Outcome(
        scenario="payload",
        conditions=f"100 kB in, 100 kB out, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        notes=[f"At most {MOST_ROUNDS} rounds."],
    )
