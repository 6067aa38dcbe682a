"""The outcomes as JSON with everything measured, and as Markdown for people."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from bench.arena import RAMP, REPLICAS
from bench.contenders import PEERS
from bench.load import Load
from bench.machine import Machine
from bench.outcome import Loads, Outcome, median, p99, ratio, server_cpu, spread, throughput
from bench.plan import Plan

_BUSY_GENERATOR = 0.9
_EVEN = 0.02
"""Figures that differ by less are as good as each other."""
_MARKS = {True: "met", False: "**not met**", None: "not told by this run"}


def as_json(machine: Machine, plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """Every round of every contender."""
    return json.dumps(
        {"machine": asdict(machine), "plan": asdict(plan), "outcomes": [asdict(outcome) for outcome in outcomes]},
        indent=1,
    )


def as_markdown(machine: Machine, plan: Plan, outcomes: Sequence[Outcome], missing: Sequence[str]) -> str:
    """Goals first, then each scenario, then where a peer is better."""
    return "\n".join(_lines(machine, plan, outcomes, missing)) + "\n"


def summary(machine: Machine, outcomes: Sequence[Outcome], missing: Sequence[str]) -> str:
    """The goals and where a peer is better, and what one has to know of both."""
    return "\n".join([*_goals(outcomes), *_where_peers_are_better(outcomes), "", *_caveats(machine, missing)])


def _lines(machine: Machine, plan: Plan, outcomes: Sequence[Outcome], missing: Sequence[str]) -> Iterator[str]:
    yield "# Bench"
    yield ""
    yield from _about(machine, plan, missing)
    yield "Poolshift is one process and its workers (WEB_CONCURRENCY=1), unless its name tells of replicas."
    yield ""
    yield from _goals(outcomes)
    yield from _where_peers_are_better(outcomes)
    for outcome in outcomes:
        yield ""
        yield from _scenario(outcome)


def _about(machine: Machine, plan: Plan, missing: Sequence[str]) -> Iterator[str]:
    yield f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB; {machine.system};"
    yield f"Python {machine.python}; {machine.began_at}; commit {machine.commit or 'unknown'}."
    loads = " ".join(f"{value:.2f}" for value in machine.load_average)
    yield f"Load average when it began: {loads}. Nothing is pinned to cores; generator and servers share them."
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in machine.versions.items())}."
    yield ""
    yield f"Each figure is the median of {plan.rounds} rounds of {plan.seconds} s; contenders take turns in each round."
    yield "The spread is the biggest round less the smallest, as a share of the median. Ratios are medians of the"
    yield "rounds' own ratios. Processor time is that of all the server's processes, for one request."
    yield from _caveats(machine, missing)


def _caveats(machine: Machine, missing: Sequence[str]) -> Iterator[str]:
    yield (
        "Poolshift was compiled, as in its image." if machine.compiled else "Poolshift was not compiled; its image is."
    )
    if missing:
        yield f"Left out: {'; '.join(missing)}."


def _goals(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One table."""
    goals = [goal for outcome in outcomes for goal in outcome.goals]
    if not goals:
        return
    yield "## Goals"
    yield ""
    yield "| goal | contender | bound | measured | |"
    yield "|---|---|---:|---:|---|"
    for goal in goals:
        measured = "–" if goal.measured is None else f"{goal.measured:.3g}"
        yield f"| {goal.text} | {goal.contender or '–'} | {goal.bound} | {measured} | {_MARKS[goal.is_met]} |"
    yield ""


def _where_peers_are_better(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "## Where a peer is better"
    yield ""
    found = [line for outcome in outcomes for line in _better_peers(outcome)]
    took_part = any(peer.name in outcome.loads for outcome in outcomes for peer in PEERS)
    yield from found or ["Nowhere in this run." if took_part else "No peer took part."]
    yield ""
    yield f"Differences under {_EVEN:.0%} are left out."


def _better_peers(outcome: Outcome) -> Iterator[str]:
    """Each figure in which a peer beats Poolshift V2, and each in which one beats it amid a ramp or with replicas."""
    if outcome.reference is None:
        return
    others = [name for name in (RAMP, REPLICAS) if name in outcome.loads]
    for ours in dict.fromkeys((outcome.reference, *others)):
        scenario = f"{outcome.scenario}, against {ours}" if others else outcome.scenario
        for peer in (one.name for one in PEERS if one.name in outcome.loads):
            if said := list(_better_figures(outcome.loads, peer, ours)):
                yield f"- {scenario}: {peer} has {', '.join(said)}"


def _better_figures(loads: Loads, peer: str, ours: str) -> Iterator[str]:
    for what, figure, more_is_better in _COMPARED:
        value = ratio(loads, peer, ours, figure)
        if value is not None and (value > 1 + _EVEN if more_is_better else value < 1 - _EVEN):
            yield f"{value:.2f} × the {what}"


def _p50(load: Load) -> float:
    return load.p50_ms


def _generator_cpu(load: Load) -> float:
    return load.generator_cpu


_COMPARED = (
    ("throughput", throughput, True),
    ("p50", _p50, False),
    ("p99", p99, False),
    ("processor time", server_cpu, False),
)


def _scenario(outcome: Outcome) -> Iterator[str]:
    yield f"## {outcome.scenario}"
    yield ""
    yield f"{outcome.conditions[0].upper()}{outcome.conditions[1:]}."
    yield ""
    if outcome.loads:
        yield from _table(outcome)
    for figure in outcome.figures:
        yield f"- {figure.name}: {figure.value:,.1f} {figure.unit}"
    for note in outcome.notes:
        yield f"- {note}"
    yield from _doubts(outcome.loads)


def _table(outcome: Outcome) -> Iterator[str]:
    loads, reference = outcome.loads, outcome.reference
    yield f"| | per second | spread | p50 ms | p99 ms | processor µs | against {reference} | failed | on |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    for name, rounds in loads.items():
        against = ratio(loads, name, reference) if reference is not None else None
        cells = (
            name,
            f"{median(rounds, throughput):,.0f}",
            f"{spread(rounds, throughput):.0%}",
            f"{median(rounds, _p50):.2f}",
            f"{median(rounds, p99):.2f}",
            f"{median(rounds, server_cpu):,.0f}",
            "–" if against is None else f"{against:.2f}",
            str(sum(load.failed for load in rounds)),
            outcome.on.get(name, "–"),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _doubts(loads: Loads) -> Iterator[str]:
    for name, rounds in loads.items():
        if any(load.failed for load in rounds):
            yield f"- **{name} failed requests**: they count for nothing in its figures."
        used = median(rounds, _generator_cpu)
        if used > _BUSY_GENERATOR:
            yield f"- **The load generator was the bottleneck for {name}**: it used {used:.0%} of a core."
    if loads:
        busiest = max(median(rounds, _generator_cpu) for rounds in loads.values())
        yield f"- The load generator used at most {busiest:.0%} of a core (median of rounds)."
