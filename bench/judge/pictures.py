"""The pictures of docs/judge.md, drawn from ramps that the judge sees: `make judge-pictures`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.guardrails import Config
from analysis.judge import Judge
from analysis.verdict import Say
from bench.judge.measure import hash_of
from bench.judge.peers import PEERS
from bench.judge.scenarios import ALL
from bench.judge.svg import Chart, Line
from bench.judge.traces import Scenario, trace

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_CALLS = 77_000
_HEALTHY_SEEDS = range(40)


def main(folder: Path) -> None:
    """Draws every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in {"evidence": evidence, "healthy": healthy, "interval": interval, "looks": looks}.items():
        (folder / f"judge-{name}.svg").write_text(chart().svg())


def evidence() -> Chart:
    """Log E of the engine guardrail on ramps with 1, 2, 5 and 20 times V1's faults."""
    chosen = {
        "V2 as good": "healthy",
        "faults ×2": "engine faults x2",
        "×5": "engine faults x5",
        "×20": "engine faults x20",
    }
    lines = [
        Line(label, _engine(ALL[name], 3), colour)
        for colour, (label, name) in zip(_COLOURS, chosen.items(), strict=False)
    ]
    return Chart("Evidence of engine faults during a ramp", "calls", "log E", lines, _threshold(), (-4, 8))


def healthy() -> Chart:
    """Log E of the engine guardrail on twelve healthy ramps."""
    lines = [Line("", _engine(ALL["healthy"], seed), _COLOURS[seed % len(_COLOURS)]) for seed in range(12)]
    return Chart("Twelve ramps of a V2 that is as good", "calls", "log E", lines, _threshold(), (-6, 8))


def interval() -> Chart:
    """The always-valid interval of the ratio of engine faults, on a ramp with twice as many."""
    lows: list[tuple[float, float]] = []
    highs: list[tuple[float, float]] = []
    for number, judge in _ramp(ALL["engine faults x2"], 5, 1000):
        low, high = next(row for row in judge.analysis() if row.name == "engine").ratio
        lows.append((number, low))
        highs.append((number, 8.0 if high is None else high))
    lines = [Line("upper bound", highs, _COLOURS[0]), Line("lower bound", lows, _COLOURS[1])]
    return Chart("Interval of the ratio V2 / V1", "calls", "ratio", lines, 2.0, (0, 8), "the truth")


def looks() -> Chart:
    """Share of healthy ramps rolled back so far, by fixed thresholds and by the judge."""
    scenario = ALL["healthy"]
    names = ("fixed threshold (Argo), failureLimit 0", "Flagger")
    stops = {
        name: [PEERS[name](trace(scenario, seed), scenario).get("rollback") for seed in _HEALTHY_SEEDS]
        for name in names
    }
    stops["Poolshift's judge"] = [_stop(scenario, seed) for seed in _HEALTHY_SEEDS]
    lines = [Line(name, _share(one), colour) for colour, (name, one) in zip(_COLOURS, stops.items(), strict=False)]
    return Chart("Healthy ramps that were rolled back", "calls", "%", lines, None, (0, 100))


def _share(stops: Sequence[int | None]) -> list[tuple[float, float]]:
    return [
        (at, 100 * sum(stop is not None and stop <= at for stop in stops) / len(stops))
        for at in range(0, _CALLS + 1, 1000)
    ]


def _threshold() -> float:
    return Judge().analysis()[0].threshold


def _engine(scenario: Scenario, seed: int) -> list[tuple[float, float]]:
    points = [(0.0, 0.0)]
    for number, judge in _ramp(scenario, seed, 500):
        engine = judge.evidence()[0]
        points.append((float(number), engine.log_e))
        if engine.is_alarm:
            break
    return points


def _stop(scenario: Scenario, seed: int) -> int | None:
    """The call at which the judge rolls back; looks are 50 calls apart, a second of traffic."""
    ramp = _ramp(scenario, seed, 50)
    return next((number for number, judge in ramp if judge.look(number).action is Say.ROLLBACK), None)


def _ramp(scenario: Scenario, seed: int, every: int) -> Iterator[tuple[int, Judge]]:
    judge = Judge(Config(steps=tuple(w for w, _ in scenario.ramp), programs=scenario.programs))
    keys: dict[str, int] = {}
    for number, call in enumerate(trace(scenario, seed), 1):
        key = None if call.key is None else keys.setdefault(call.key, hash_of(len(keys)))
        judge.assigned(call.t, call.w, call.arm, key)
        judge.ended(call.t, call.w, call.arm, key, call.program, call.outcome, call.ms, is_cold=call.is_cold)
        if number % every == 0:
            yield number, judge


if __name__ == "__main__":
    main(Path(sys.argv[1]))
