"""Measures the gain from replicas, and the processor time that a call takes of each process."""

from collections.abc import Iterator, Sequence
from functools import partial

from bench.arena import RAMP, REPLICAS, REPLICAS_IN_RAMP, V2, Arena
from bench.load import Load
from bench.outcome import Figure, Goal, Loads, Outcome, at_least, at_most, median, ratio
from bench.workloads import IDEMPOTENT

THREE = "Poolshift with 3 replicas"
COUNTS = {V2: 1, REPLICAS: 2, THREE: 3}
"""The replicas of each contender that has all traffic on V2."""


def run(arena: Arena) -> Outcome:
    """One to three replicas at 100 %, one and two amid a ramp."""
    plan = arena.plan
    contenders = [
        arena.v2(),
        arena.replicas(),
        arena.replicas(THREE, count=3),
        arena.ramp(),
        arena.ramp(REPLICAS_IN_RAMP, replicas=2),
    ]
    loads = arena.compare(contenders, IDEMPOTENT)
    return Outcome(
        scenario="replicas",
        conditions=f"trivial program, {plan.workers} workers in all, {plan.connections} connections",
        loads=loads,
        reference=V2,
        figures=[figure for name, count in COUNTS.items() for figure in _figures(count, loads[name])],
        goals=_goals(loads),
        notes=["The rate at which a process fills a core is computed, not measured: a second by its time of a call."],
    )


def busiest_cpu(load: Load) -> float:
    """The processor time of a call in the process that takes most of it, workers left out, in microseconds."""
    return max(load.supervisor_cpu_us, *load.replicas_cpu_us)


def supervisor_cpu(load: Load) -> float:
    """The processor time of a call in the process that only watches replicas, in microseconds."""
    return load.supervisor_cpu_us


def replica_cpu(index: int, load: Load) -> float:
    """The processor time of an average call in one replica, which serves its part of the calls, in microseconds."""
    return load.replicas_cpu_us[index]


def workers_cpu(load: Load) -> float:
    """The processor time of a call in the workers, and in what serves them, in microseconds."""
    return load.server_cpu_us - load.supervisor_cpu_us - sum(load.replicas_cpu_us)


def _goals(loads: Loads) -> list[Goal]:
    text = "throughput of two replicas against one process"
    busiest = ratio(loads, REPLICAS, V2, busiest_cpu)
    return [
        at_least(text, 1, ratio(loads, REPLICAS, V2), contender=REPLICAS),
        at_least(text, 1, ratio(loads, REPLICAS_IN_RAMP, RAMP), contender=REPLICAS_IN_RAMP),
        at_most("processor time of a call in the busiest process, against one", 0.6, busiest, contender=REPLICAS),
        at_most(
            "processor time of a call in the supervisor",
            1,
            median(loads[REPLICAS], supervisor_cpu),
            " µs",
            contender=REPLICAS,
        ),
    ]


def _figures(count: int, rounds: Sequence[Load]) -> Iterator[Figure]:
    """The rows of the table of growth for so many replicas."""
    text = f"WEB_CONCURRENCY={count}: processor time of a call in"
    if count > 1:
        yield Figure(f"{text} the supervisor", median(rounds, supervisor_cpu), "µs")
    for index in range(count):
        yield Figure(f"{text} replica {index}", median(rounds, partial(replica_cpu, index)), "µs")
    yield Figure(f"{text} its workers and what serves them", median(rounds, workers_cpu), "µs")
    full = 1e6 / median(rounds, busiest_cpu)
    yield Figure(f"WEB_CONCURRENCY={count}: calls per second at which its busiest process fills a core", full, "/s")
