"""A program that waits 20 ms: what N workers are worth on each version, against the ideal of N / 20 ms."""

from bench.arena import V1, V2, Arena
from bench.load import Load
from bench.outcome import Goal, Loads, Outcome, at_least, median, ratio
from bench.plan import FEW_ROUNDS
from bench.programs import BLOCK_S
from bench.workloads import BLOCKING

CONNECTIONS_PER_WORKER = 2
_FULL_SHARE_OF = 16
"""The size for which the share of the ideal is a goal."""


def run(arena: Arena) -> Outcome:
    """V1 and V2 at each size."""
    loads: dict[str, list[Load]] = {}
    goals: list[Goal] = []
    for workers in arena.plan.pool_sizes:
        loads |= {f"{name}, {workers} workers": list(rounds) for name, rounds in _compare(arena, workers).items()}
        v1, v2 = f"{V1}, {workers} workers", f"{V2}, {workers} workers"
        text = f"V2 against V1, 20 ms blocking, N = {workers}"
        goals.append(at_least(text, 0.95 * workers, ratio(loads, v2, v1), contender=V2))
        if workers == _FULL_SHARE_OF:
            share = median(loads[v2], _share) / workers
            text = f"V2 at N = {workers} against the ideal {workers} / 20 ms"
            goals.append(at_least(text, 0.95, share, contender=V2))
    return Outcome(
        scenario="blocking",
        conditions=f"a program that sleeps 20 ms, {CONNECTIONS_PER_WORKER} connections for each worker",
        loads=loads,
        reference=f"{V2}, {arena.plan.pool_sizes[0]} workers",
        goals=goals,
        notes=[
            f"At most {FEW_ROUNDS} rounds. The ideal is 50/s for each worker: {', '.join(_ideals(arena))}.",
            "The goal's share of it leaves out the first 20 ms of a measurement, in which no answer can come.",
        ],
    )


def _compare(arena: Arena, workers: int) -> Loads:
    arena.say(f"  {workers} workers")
    connections = CONNECTIONS_PER_WORKER * workers
    with arena.running([arena.v1(), arena.v2()], BLOCKING, workers) as servers:
        return arena.compare_running(servers, BLOCKING, connections, rounds=arena.plan.few_rounds)


def _share(one: Load) -> float:
    """Returns the number of workers that would do this much at best. No answer can come within the first 20 ms."""
    return one.rps * one.seconds / (one.seconds - BLOCK_S) * BLOCK_S


def _ideals(arena: Arena) -> list[str]:
    return [f"{workers / BLOCK_S:,.0f} at {workers}" for workers in arena.plan.pool_sizes]
