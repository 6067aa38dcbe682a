"""Measures the gain from two front processes, and the processor time that a call takes of each part of the service."""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.arena import FRONTS, V2, Arena
from bench.load import Load
from bench.outcome import Figure, Outcome, at_least, at_most, median, ratio, server_cpu
from bench.workloads import TRIVIAL

COUNT: Final = 2
"""The fronts, on any machine."""
CORES: Final = (4, 16, 64)
"""The cores for which throughput is computed."""


def run(arena: Arena) -> Outcome:
    """V2 without and with fronts."""
    plan = arena.plan
    loads = arena.compare([arena.v2(), arena.fronts(COUNT)], TRIVIAL)
    settings = {V2: "WEB_CONCURRENCY=1", FRONTS: f"WEB_CONCURRENCY={COUNT}"}
    own = "processor time of a call in the service's own process"
    return Outcome(
        scenario="fronts",
        conditions=f"trivial program, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        settings=settings,
        figures=[figure for name in loads for figure in _figures(settings[name], loads[name])],
        goals=[
            at_least("throughput with fronts against without", 1, ratio(loads, FRONTS, V2), contender=FRONTS),
            at_most(own, 15, median(loads[FRONTS], own_cpu), " µs", contender=FRONTS),
        ],
        notes=[
            "Calls per second at more cores are computed, not measured: the cores by the processor time of a call, as"
            " long as the service's own process, which cannot be multiplied, takes no more than one core.",
            "They suppose enough fronts and workers, a call that costs the same with more of them, and a load generator"
            " on another machine.",
        ],
    )


def own_cpu(load: Load) -> float:
    """The processor time of a call in the service's own process, in microseconds."""
    return load.own_cpu_us


def fronts_cpu(load: Load) -> float:
    """The processor time of a call in the fronts, in microseconds."""
    return load.fronts_cpu_us


def workers_cpu(load: Load) -> float:
    """The processor time of a call in the workers and all other processes, in microseconds."""
    return load.server_cpu_us - own_cpu(load) - fronts_cpu(load)


def at_cores(cores: int, own_us: float, total_us: float) -> float:
    """Computes calls per second, if a call takes `total_us` of the cores, `own_us` of them in the one process."""
    all_cores = cores * 1e6 / total_us
    return min(all_cores, 1e6 / own_us) if own_us > 0 else all_cores


def _figures(setting: str, rounds: Sequence[Load]) -> Iterator[Figure]:
    parts = {
        "the service's own process": own_cpu,
        "its fronts": fronts_cpu,
        "its workers and what serves them": workers_cpu,
    }
    for part, figure in parts.items():
        yield Figure(f"{setting}: processor time of a call in {part}", median(rounds, figure), "µs")
    for cores in CORES:
        calls = at_cores(cores, median(rounds, own_cpu), median(rounds, server_cpu))
        yield Figure(f"{setting}: calls per second at {cores} cores, computed, not measured", calls, "/s")
