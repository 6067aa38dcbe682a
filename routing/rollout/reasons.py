"""Says in words what counts behind a guardrail's verdict, for the history and for notifications."""

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from statistics import median
from typing import Final, NamedTuple

from analysis.costs import cost_of_bin
from analysis.counters import Counters, total
from analysis.verdict import Outstanding
from common.durations import duration_text

_QUANTILES: Final = ((0.5, "the median"), (0.9, "p90"), (0.99, "p99"))
_NOUNS: Final = {"tail": "slow ones"}


class TimedCall(NamedTuple):
    """A call that succeeded, and its time."""

    version: str
    program: str
    ms: float


def reason(guardrail: str | None, counters: Counters, recent: Sequence[TimedCall]) -> str:
    """Tells the counts, times or costs that speak against V2, and the program that most of them are of.

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
    return told + _by_program(_events_of_v2(counters, guardrail))


def outstanding_text(one: Outstanding) -> str:
    """Tells when the evidence that a promotion waits for is likely, such as "engine in about 1,200 calls (4 min)"."""
    if one.calls is None:
        return f"{one.guardrail} not to be foreseen yet"
    time = "" if one.seconds is None else f" ({duration_text(one.seconds)})"
    return f"{one.guardrail} in about {_rounded(one.calls):,} calls{time}"


def _rounded(calls: int) -> int:
    """Two digits, which is more than an estimate knows."""
    return round(calls, 2 - len(str(calls)))


def _events_of_v2(counters: Counters, guardrail: str | None) -> Counter[str]:
    events: Counter[str] = Counter()
    for (name, _, _, _, program), pair in counters.events.items():
        if name == guardrail:
            events[program] += pair[1]
    return events


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
    return f"V2 takes {mine:.3g} ms at {name}, V1 {theirs:.3g} ms" + _by_program(_excess(recent))


def _excess(recent: Iterable[TimedCall]) -> Counter[str]:
    """The time that V2's calls take beyond the median of V1's, by program."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    for call in recent:
        times.setdefault(call.program, ([], []))[call.version == "v2"].append(call.ms)
    excess: Counter[str] = Counter()
    for program, (v1, v2) in times.items():
        if v1 and v2:
            usual = median(v1)
            excess[program] = round(1000 * max(0.0, sum(ms - usual for ms in v2)))
    return excess


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _by_program(weights: Counter[str]) -> str:
    """Names the program with more than half of the weight, if there is one."""
    program, weight = max(weights.items(), key=itemgetter(1), default=("", 0))
    return f"; most of V2's by the program {program}" if 2 * weight > weights.total() else ""
