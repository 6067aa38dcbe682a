"""A program that needs a core for 5 ms: the cores set the pace, and whatever else runs on them takes from it."""

import os

from bench.arena import V2, Arena
from bench.contenders import EXECUTOR, IN_PROCESS, LITSERVE, MOSEC
from bench.outcome import Outcome
from bench.plan import FEW_ROUNDS
from bench.programs import COMPUTE_S
from bench.workloads import COMPUTING


def run(arena: Arena) -> Outcome:
    """V2 and every peer; mosec once, since JSON is next to nothing of these calls."""
    plan = arena.plan
    peers = arena.peers(MOSEC, LITSERVE, EXECUTOR, IN_PROCESS)
    loads = arena.compare([arena.v2(), *peers], COMPUTING, rounds=plan.few_rounds)
    cores = len(os.sched_getaffinity(0))
    return Outcome(
        scenario="compute",
        conditions=f"5 ms of processor time, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        notes=[
            f"At most {FEW_ROUNDS} rounds. {cores} cores that did nothing else would do {cores / COMPUTE_S:,.0f}/s."
        ],
    )
