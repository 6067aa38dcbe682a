"""The 99th percentile at half of the peak load, against mosec at the same rate."""

from collections.abc import Sequence
from dataclasses import replace

from bench import load
from bench.arena import V2, Arena
from bench.contenders import MOSECS, Contender
from bench.load import Load
from bench.outcome import Figure, Loads, Outcome, at_most, greatest_ratio, median, p99
from bench.servers import Server
from bench.workloads import TRIVIAL


def run(arena: Arena) -> Outcome:
    """V2 as one process and with replicas, and mosec in two ways, at half of the peak of one process."""
    outcome = at_half_of_the_peak(arena, "tail", [arena.v2(), arena.replicas(), *arena.peers(*MOSECS)], of=V2)
    text = "p99 at half of the peak load, against mosec at the same rate"
    return replace(outcome, goals=[at_most(text, 0.8, against_mosec(outcome.loads, V2), contender=V2)])


def at_half_of_the_peak(arena: Arena, scenario: str, contenders: Sequence[Contender], *, of: str) -> Outcome:
    """The contenders at half of the peak of one of them, or of the first if that one does not take part."""
    plan = arena.plan
    body = arena.body(TRIVIAL)
    first = contenders[0].name
    with arena.running(contenders, TRIVIAL, plan.workers) as servers:

        def peak(server: Server, seconds: int) -> Load:
            return load.peak(server, body, connections=plan.connections, seconds=seconds)

        arena.warm_up(servers.values(), peak)
        peaks = {name: peak(server, plan.seconds).rps for name, server in servers.items()}
        rate = load.even_rate(peaks.get(of, peaks[first]) / 2)
        arena.say(f"  at {rate:,.0f}/s")
        loads = arena.alternate(
            servers,
            lambda server, seconds: load.at_rate(server, body, rate=rate, seconds=seconds),
        )
    return Outcome(
        scenario=scenario,
        conditions=f"trivial program, {plan.workers} workers, {rate:,} requests per second, half of the peak of {of}",
        loads=loads,
        reference=first,
        figures=[Figure(f"peak of {name} just before", peak, "/s") for name, peak in peaks.items()],
        is_at_a_rate=True,
    )


def against_mosec(loads: Loads, ours: str) -> float | None:
    """The worse of the rounds' ratios' median and the medians' ratio: of so few percentiles, one alone may flatter.

    Of mosec's two ways the better one counts.
    """
    mosecs = [one.name for one in MOSECS if one.name in loads]
    by_round = greatest_ratio(loads, ours, mosecs, p99)
    if by_round is None:
        return None
    return max(by_round, *(median(loads[ours], p99) / median(loads[name], p99) for name in mosecs))
