"""The 99th percentile at half of the peak load, against mosec at the same rate."""

from dataclasses import replace

from bench import load
from bench.arena import V2, Arena
from bench.contenders import MOSEC
from bench.outcome import Figure, Loads, Outcome, at_most, median, p99, ratio
from bench.workloads import TRIVIAL


def run(arena: Arena) -> Outcome:
    """V2 and mosec, at half of V2's peak."""
    outcome = at_half_of_the_peak(arena, "tail", of=V2)
    against_mosec = _against_mosec(outcome.loads)
    goal = at_most("p99 at half of the peak load, against mosec at the same rate", 1, against_mosec)
    return replace(outcome, goals=[goal])


def at_half_of_the_peak(arena: Arena, scenario: str, *, of: str) -> Outcome:
    """V2 and mosec, at half of the peak `of` one of both; of the other where that one does not take part."""
    plan = arena.plan
    body = arena.body(TRIVIAL)
    with arena.running([arena.v2(), *arena.peers(MOSEC)], TRIVIAL, plan.workers) as servers:
        for server in servers.values():
            load.peak(server, body, connections=plan.connections, seconds=1)
        peaks = {
            name: load.peak(server, body, connections=plan.connections, seconds=plan.seconds).rps
            for name, server in servers.items()
        }
        rate = load.even_rate(peaks.get(of, peaks[V2]) / 2)
        arena.say(f"  at {rate:,.0f}/s")
        loads = arena.alternate(
            servers,
            lambda server, seconds: load.at_rate(server, body, rate=rate, seconds=seconds),
        )
    return Outcome(
        scenario=scenario,
        conditions=f"trivial program, {plan.workers} workers, {rate:,} requests per second, half of the peak of {of}",
        loads=loads,
        reference=V2,
        figures=[Figure(f"peak of {name} just before", peak, "/s") for name, peak in peaks.items()],
        is_at_a_rate=True,
    )


def _against_mosec(loads: Loads) -> float | None:
    """The worse of the rounds' ratios' median and the medians' ratio: of so few percentiles, one alone may flatter."""
    by_round = ratio(loads, V2, MOSEC.name, p99)
    if by_round is None:
        return None
    return max(by_round, median(loads[V2], p99) / median(loads[MOSEC.name], p99))
