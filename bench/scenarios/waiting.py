"""Measures the price of workers that are apart: calls of 50 ms that wait at one replica while another has a worker."""

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from bench.arena import REPLICAS, V2, Arena
from bench.arrivals import answer_times
from bench.outcome import Figure, Outcome
from bench.programs import PAUSE_S
from bench.workloads import PAUSING

BUSY: Final = (0.5, 0.8)
"""The shares of their time that the workers are busy."""
_STRETCH: Final = 2
"""Chance needs longer than a peak does."""


def run(arena: Arena) -> Outcome:
    """One process and two replicas, with as many workers, at the same moments: they take next to no processor time."""
    plan = arena.plan
    seconds = _STRETCH * plan.rounds * plan.seconds
    figures: list[Figure] = []
    with arena.running([arena.v2(), arena.replicas()], PAUSING, plan.workers) as servers:
        for busy in BUSY:
            arena.say(f"  workers busy for {busy:.0%} of the time")
            rate = busy * plan.workers / PAUSE_S

            async def calls(rate: float = rate) -> list[list[float]]:
                sent = (
                    answer_times(server, PAUSING, rate=rate, seconds=seconds, connections=plan.connections)
                    for server in servers.values()
                )
                return await asyncio.gather(*sent)

            for name, times in zip(servers, asyncio.run(calls()), strict=True):
                figures.extend(_figures(f"{name}, workers {busy:.0%} busy", times))
    return Outcome(
        scenario="waiting",
        conditions=f"a program that sleeps 50 ms, {plan.workers} workers in all, {plan.connections} connections",
        figures=figures,
        notes=[
            f"Calls come at random moments for {seconds} s, each on a random one of the idle connections.",
            f"{V2} has one queue for all workers, {REPLICAS} one for each half of them.",
        ],
    )


def _figures(title: str, times_ms: Sequence[float]) -> Iterator[Figure]:
    yield Figure(f"{title}: mean time to an answer", statistics.fmean(times_ms), "ms")
    yield Figure(f"{title}: median", statistics.median(times_ms), "ms")
    yield Figure(f"{title}: 99th percentile", statistics.quantiles(times_ms, n=100)[98], "ms")
