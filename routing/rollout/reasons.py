"""Says in words what counts behind a guardrail's verdict, for the history and for notifications."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from statistics import fmean
from typing import Final, NamedTuple

from analysis.costs import cost_of_bin
from analysis.counters import Counters, total
from analysis.odd_ones import Comparisons
from analysis.quality import QualityScores
from analysis.verdict import Outstanding
from common.durations import duration_text

_QUANTILES: Final = ((0.5, "the median"), (0.9, "p90"), (0.99, "p99"))
_NOUNS: Final = {"tail": "slow ones"}
_EXCESS: Final = "; most of V2's excess is of the program"


class TimedCall(NamedTuple):
    """A call that succeeded, and its time."""

    version: str
    program: str
    ms: float


def reason(guardrail: str | None, counters: Counters, recent: Sequence[TimedCall]) -> str:
    """Tells the counts, times or costs that speak against V2, and the program that most of V2's excess is of.

    The `recent` calls are asked for times alone. Returns an empty text for a guardrail with other evidence.
    """
    if guardrail == "latency":
        return _slowness(recent)
    if guardrail == "srm":
        v1, v2 = total(counters.units.values())
        return f"V2 was given {v2:,} of {v1 + v2:,} calls"
    if guardrail == "cost":
        return _dearness(counters)
    calls = total(counters.calls.values())
    faults = total(pair for (name, _), pair in counters.faults.items() if name == guardrail)
    if not sum(faults):
        return ""
    noun = _NOUNS.get(guardrail or "", "faults")
    told = f"V2 has {faults[1]:,} {noun} in {calls[1]:,} calls, V1 {faults[0]:,} in {calls[0]:,}"
    return told + _excess_of_faults(counters, guardrail)


def odd_ones_reason(comparisons: Comparisons) -> str:
    """Tells how often V2 was the odd one by the output that speaks most against V2; empty if none does."""
    nearest = comparisons.nearest()
    if nearest is None:
        return ""
    (program, field), counts = nearest
    return (
        f"V2 is the odd one in {counts.v2_odd:,} of {counts.compared:,} compared calls, V1 in {counts.v1_odd:,}, "
        f"by {field} of the program {program}"
    )


def scores_reason(scores: QualityScores) -> str:
    """Tells the mean scores of both versions, and the program that most of V2's loss is of; empty without scores."""
    (v1, calls_v1), (v2, calls_v2) = scores.means(None)
    if v1 is None or v2 is None:
        return ""
    told = f"V2's mean score is {v2:.3f} in {calls_v2:,} calls, V1's {v1:.3f} in {calls_v1:,}"
    program = _most(_losses(scores))
    return told if program is None else f"{told}; most of V2's loss is of the program {program}"


def _losses(scores: QualityScores) -> dict[str, float]:
    """The scores that V2's calls lack beside V1's mean, by program; of programs that have scores of both."""
    losses: dict[str, float] = {}
    for program in scores.programs():
        (v1, _), (v2, calls) = scores.means(program)
        if v1 is not None and v2 is not None:
            losses[program] = calls * (v1 - v2)
    return losses


def outstanding_text(one: Outstanding) -> str:
    """Tells when the evidence that a promotion waits for is likely, such as "engine in about 1,200 calls (4 min)"."""
    if one.calls is None:
        return f"{one.guardrail} not to be foreseen yet"
    time = "" if one.seconds is None else f" ({duration_text(one.seconds)})"
    return f"{one.guardrail} in about {_rounded(one.calls):,} calls{time}"


def _rounded(calls: int) -> int:
    """Two digits, which is more than an estimate knows."""
    return round(calls, 2 - len(str(calls)))


def _excess_of_faults(counters: Counters, guardrail: str | None) -> str:
    """Names the program of which V2 has the most events beyond those that V1's rate gives, by the odds of each step."""
    found: Counter[str] = Counter()
    expected: dict[str, float] = {}
    for (name, _, step, _, program), (v1, v2) in counters.events.items():
        if name == guardrail:
            w = counters.steps[step][0]
            found[program] += v2
            expected[program] = expected.get(program, 0.0) + v1 * w / (1 - w)
    most = _most({program: found[program] - expected[program] for program in found})
    return (
        "" if most is None else f"{_EXCESS} {most}: {found[most]:,} events, where V1's rate gives {expected[most]:,.1f}"
    )


def _dearness(counters: Counters) -> str:
    """The cost of 1,000 calls on each version, from bins of 5 %."""
    costs, calls = [0.0, 0.0], [0, 0]
    for histogram in counters.costs.values():
        for fine, pair in histogram.items():
            for version, count in enumerate(pair):
                costs[version] += count * cost_of_bin(fine)
                calls[version] += count
    if not all(calls):
        return ""
    v1, v2 = (cost / count for cost, count in zip(costs, calls, strict=True))
    return f"1,000 calls cost {1000 * v2:,.2g} on V2, {1000 * v1:,.2g} on V1"


def _slowness(recent: Sequence[TimedCall]) -> str:
    v1, v2 = (sorted(call.ms for call in recent if call.version == version) for version in ("v1", "v2"))
    if not v1 or not v2:
        return ""
    at = [(_quantile(v2, share), _quantile(v1, share), name) for share, name in _QUANTILES]
    mine, theirs, name = max(at, key=lambda one: one[0] / max(one[1], 1e-6))
    return f"V2 takes {mine:.3g} ms at {name}, V1 {theirs:.3g} ms" + _excess_of_times(recent)


def _excess_of_times(recent: Iterable[TimedCall]) -> str:
    """Names the program whose calls take V2 the most time beyond V1's mean."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    for call in recent:
        times.setdefault(call.program, ([], []))[call.version == "v2"].append(call.ms)
    most = _most({program: sum(v2) - len(v2) * fmean(v1) for program, (v1, v2) in times.items() if v1})
    return "" if most is None else f"{_EXCESS} {most}"


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _most(excess: Mapping[str, float]) -> str | None:
    """Returns the program with more than half of all that V2 has beyond V1, if there is one."""
    above = {program: one for program, one in excess.items() if one > 0}
    program, most = max(above.items(), key=itemgetter(1), default=(None, 0.0))
    return program if 2 * most > sum(above.values()) else None
