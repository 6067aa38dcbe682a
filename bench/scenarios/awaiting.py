"""A program that awaits, as one on a language model does: many calls at once on few processes."""

from bench.arena import ASYNC, V2, Arena
from bench.contenders import IN_PROCESS, LITSERVE_ASYNC
from bench.outcome import Outcome, at_least, ratio
from bench.programs import AWAIT_S
from bench.workloads import AWAITING

CONNECTIONS = 512


def run(arena: Arena) -> Outcome:
    """The async engine beside whoever runs coroutines on as many processes, and beside the engine of one call each."""
    connections = CONNECTIONS
    contenders = [
        arena.asynchronous(connections),
        arena.v2(),
        *arena.peers(IN_PROCESS, LITSERVE_ASYNC),
    ]
    with arena.running(contenders, AWAITING, arena.plan.workers) as servers:
        loads = arena.compare_running(servers, AWAITING, connections)
    goals = [at_least(f"against {IN_PROCESS.name}", 0.8, ratio(loads, ASYNC, IN_PROCESS.name), contender=ASYNC)]
    if LITSERVE_ASYNC.name in loads:
        share = ratio(loads, ASYNC, LITSERVE_ASYNC.name)
        goals.append(at_least(f"against {LITSERVE_ASYNC.name}", 1.0, share, contender=ASYNC))
    return Outcome(
        scenario="awaiting",
        conditions=(
            f"a program that awaits {AWAIT_S * 1000:.0f} ms, {arena.plan.workers} processes, {connections} connections"
        ),
        loads=loads,
        reference=ASYNC,
        goals=goals,
        notes=[f"{V2} runs as many calls at once as it has workers: {arena.plan.workers / AWAIT_S:,.0f}/s at best."],
    )
