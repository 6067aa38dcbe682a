"""The judge against other policies on the same simulated ramps: false rollbacks, and calls until a rollback."""

from bench.arena import Arena
from bench.judge.measure import Found, Policy, judged, median_calls, ramps, share
from bench.judge.peers import PEERS
from bench.judge.scenarios import HEALTHY, REGRESSIONS
from bench.outcome import Figure, Goal, Outcome, at_most

OURS = "Poolshift's judge"
_SEEDS = 51
"""Ramps of our judge, since a goal is about their median; the other policies take longer, and differ by more."""
_SEEDS_OF_PEERS = 11
_SHOWN = {
    "engine faults x2": "×2 engine faults",
    "engine faults x5": "×5",
    "faults on V2 only": "V2-only faults",
    "latency x1.5": "latency ×1.5",
    "p99 x5": "p99 ×5",
}


def run(arena: Arena) -> Outcome:
    """Every policy on the same traces. No server is started."""
    many, few = (_SEEDS, _SEEDS_OF_PEERS) if arena.plan.rounds > 1 else (2, 2)
    policies: dict[str, Policy] = {OURS: judged, **PEERS}
    rows, figures, goals = [], [], []
    for name, policy in policies.items():
        arena.say(f"  {name}")
        seeds = range(1, 1 + (many if name == OURS else few))
        healthy = [one for scenario in HEALTHY for one in ramps(scenario, seeds[: max(len(seeds) // 4, 1)], policy)]
        found = {
            scenario.name: ramps(scenario, seeds, policy)
            for scenario, verdict, _ in REGRESSIONS
            if name == OURS or scenario.name in _SHOWN
        }
        rows.append(_row(name, healthy, found))
        figures.append(Figure(f"{name}: healthy ramps rolled back", 100 * share(healthy, "rollback"), "%"))
        if name == OURS:
            goals = [at_most("false rollback, all healthy ramps", 0.01, share(healthy, "rollback")), *_goals(found)]
    return Outcome(
        scenario="judge",
        conditions=f"simulated ramps 1/5/10/25/50 % of 77,000 calls, {many} seeds ({few} of the others), no server",
        figures=figures,
        goals=goals,
        notes=[
            "Rolled back if healthy, then median calls until a rollback (– is: in less than half of the ramps).",
            *rows,
        ],
    )


def _goals(found: dict[str, list[Found]]) -> list[Goal]:
    return [
        at_most(f"{scenario.name}: median calls until {verdict}", goal, median_calls(found[scenario.name], verdict))
        for scenario, verdict, goal in REGRESSIONS
    ]


def _row(name: str, healthy: list[Found], found: dict[str, list[Found]]) -> str:
    cells = [f"{_SHOWN[scenario]} {_calls(found[scenario])}" for scenario in _SHOWN]
    return f"{name}: {share(healthy, 'rollback'):.0%} false; {', '.join(cells)}"


def _calls(found: list[Found]) -> str:
    calls = median_calls(found, "rollback")
    return "–" if calls == float("inf") else f"{calls / 1000:.1f}k"
