"""Measures the overhead of a contender: a program that does next to nothing, as many calls as possible."""

from bench.arena import FRONTS, UNOBSERVED, UNOBSERVED_FRONTS, V2, Arena, settings_of
from bench.contenders import EXECUTOR, LITSERVE, MOSEC
from bench.outcome import Goal, Loads, Outcome, at_least, at_most, ratio, server_cpu
from bench.workloads import TRIVIAL


def run(arena: Arena) -> Outcome:
    """Poolshift in five ways, and every peer."""
    ours = [arena.v2(), arena.fronts(), arena.v1(), arena.unobserved(), arena.unobserved_fronts()]
    loads = arena.compare([*ours, *arena.peers()], TRIVIAL)
    plan = arena.plan
    return Outcome(
        scenario="overhead",
        conditions=f"trivial program, {plan.workers} workers, {plan.connections} connections",
        loads=loads,
        reference=V2,
        settings=settings_of(loads),
        goals=[*_goals_of_one_process(loads), *_goals_with_fronts(loads)],
        notes=[
            "Unobserved fronts report their calls, too, since the loans of workers depend on it: nothing counts them."
        ],
    )


def _goals_of_one_process(loads: Loads) -> list[Goal]:
    text = "throughput, everything on, against mosec"
    return [
        at_least(text, 1.1, ratio(loads, V2, MOSEC.name), contender=V2),
        at_least(f"against {EXECUTOR.name}", 4, ratio(loads, V2, EXECUTOR.name), contender=V2),
        at_least("against LitServe", 10, ratio(loads, V2, LITSERVE.name), contender=V2),
        at_least("observability on against off", 0.9, ratio(loads, V2, UNOBSERVED), contender=V2),
    ]


def _goals_with_fronts(loads: Loads) -> list[Goal]:
    text = "trivial program, everything on, against mosec"
    cpu = ratio(loads, FRONTS, MOSEC.name, server_cpu)
    observed = ratio(loads, FRONTS, UNOBSERVED_FRONTS)
    return [
        at_least(text, 1.4, ratio(loads, FRONTS, MOSEC.name), contender=FRONTS),
        at_most(
            "processor time of all processes per call, trivial program, against mosec", 0.65, cpu, contender=FRONTS
        ),
        at_least("observability on against off", 0.9, observed, contender=FRONTS),
    ]
