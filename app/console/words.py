"""Sentences and units that the pages say figures with."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from analysis.verdict import Row, Say
from app.api.ramp import StatusView
from app.api.rollout import RolloutView

UNKNOWN: Final = "–"
_UNITS: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
GUARDRAILS: Final = {
    "engine": ("Engine faults", "crashes, timeouts, quarantines and internal errors"),
    "program": ("Program faults", "errors of programs, outputs that do not fit, programs that do not load"),
    "latency": ("Latency", "time of successful calls, without queue and loading"),
    "tail": ("Slow calls", "calls beyond V1's p99"),
    "upstream": ("Language model", "failures of the language model"),
    "capacity": ("Capacity", "calls shed or without a worker"),
    "srm": ("Split", "calls that went to V2 against those that should have"),
    "shadow": ("Shadow", "outputs that differ from V1's"),
    "quality": ("Quality", "scores of the programs' own metric"),
    "cost": ("Cost", "tokens of language models"),
}
"""A guardrail's name and subject, in words."""
FINDINGS: Final[Mapping[str, str]] = {
    "against": "against V2",
    "suspected": "suspected",
    "alike": "no worse",
    "unknown": "not yet known",
}
"""The findings of guardrails in words."""
_NOT_COUNTED: Final = frozenset({"latency", "quality", "cost"})
"""Guardrails whose evidence is not a count of events."""


def percent(value: float | None) -> str:
    """A share in percent, with as many decimals as it has, two at most."""
    return UNKNOWN if value is None else f"{value:.2f}".rstrip("0").rstrip(".") + " %"


def number(value: float | None) -> str:
    """A number with its thousands apart."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """A time in milliseconds, in the unit that reads best."""
    if value is None:
        return UNKNOWN
    if value >= 1000:
        return f"{value / 1000:.3g}\N{NO-BREAK SPACE}s"
    return f"{value:.3g}\N{NO-BREAK SPACE}ms" if value < 100 else f"{value:.0f}\N{NO-BREAK SPACE}ms"


def size(value: int | None) -> str:
    """Bytes in MiB."""
    return UNKNOWN if value is None else f"{value / 1024**2:,.0f}\N{NO-BREAK SPACE}MiB"


def span(seconds: float | None) -> str:
    """A time span in its largest whole unit."""
    if seconds is None:
        return UNKNOWN
    for name, length in _UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count:,} {name}{'' if count == 1 else 's'}"
    return "a moment"


def ago(at: datetime, now: datetime | None = None) -> str:
    """The time since a moment, in words."""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 1 else "just now"


def clock(seconds: float) -> str:
    """A moment, in seconds since the epoch, as the time of day in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def times(value: float | None) -> str:
    """A factor such as 1.25 ×; no bound is the sign for infinity."""
    return "\N{INFINITY}" if value is None or math.isinf(value) else f"{value:.2f}\N{NO-BREAK SPACE}×"


def interval(ratio: tuple[float, float | None]) -> str:
    """An interval of V2 over V1, or what is known if it has no bounds."""
    low, high = ratio
    if low <= 0 and high is None:
        return "unknown yet"
    return f"{times(low)} to {times(high)}"


def finding(row: Row) -> str:
    """A guardrail's word on V2, with what is missing until it is known."""
    if row.finding != "unknown":
        return FINDINGS[row.finding]
    until = row.until_shown
    if until is None:
        return FINDINGS["unknown"]
    return f"{FINDINGS['unknown']}: {until.calls:,} calls" + (f", {span(until.seconds)}" if until.seconds else "")


def verdict(status: StatusView, rollout: RolloutView, rows: Sequence[Row], *, has_v1: bool) -> str:
    """The verdict as sentences for people, before any figure."""
    nothing = _nothing_to_compare(rollout, has_v1=has_v1)
    guardrail = GUARDRAILS.get(status.guardrail or "", (status.guardrail or "a guardrail", ""))[0]
    if status.verdict is Say.ROLLBACK:
        return f"Evidence against V2: {guardrail}. {_counts(status.guardrail, rows)}"
    if status.verdict is Say.PAUSE:
        return f"Something is wrong that a person should look at: {guardrail}. {_counts(status.guardrail, rows)}"
    if nothing is not None:
        return nothing
    if status.verdict is Say.PROMOTE:
        return "Evidence that V2 is no worse than V1, within the plan's margins."
    if suspected := [_suspicion(row) for row in rows if row.finding == "suspected"]:
        return f"Suspected, and not shown: {'; '.join(suspected)}."
    return f"No evidence against V2. {_detectable(rows)}"


def tone(status: StatusView, rows: Sequence[Row]) -> str:
    """The colour of the verdict: `bad`, `warn`, `good` or, while little is known, `calm`."""
    if status.verdict is Say.ROLLBACK:
        return "bad"
    if status.verdict is Say.PAUSE:
        return "warn"
    if any(row.finding == "suspected" for row in rows):
        return "warn"
    if status.verdict is Say.PROMOTE and any(row.v2.calls for row in rows):
        return "good"
    return "calm"


def coming(next_move: str) -> str:
    """The plan's next move as a sentence."""
    text = next_move.removeprefix("nothing: ")
    is_nothing = text != next_move or next_move.startswith("nothing ")
    text = text.replace("_", " ")
    return f"{text[:1].upper()}{text[1:]}." if is_nothing else f"Next: {text}."


def _nothing_to_compare(rollout: RolloutView, *, has_v1: bool) -> str | None:
    if not has_v1:
        return "Nothing is compared: this service runs without V1."
    if rollout.pool_version is not None:
        return f"Nothing is compared: POOL_VERSION pins every call to {rollout.pool_version.upper()}."
    if rollout.canary_percent <= 0:
        return "Nothing is compared: V2 gets no traffic."
    if rollout.canary_percent >= 100:
        return "Nothing is compared: V2 gets all traffic."
    return None


def _suspicion(row: Row) -> str:
    name = GUARDRAILS.get(row.name, (row.name, ""))[0]
    return f"{name} ({', '.join(row.suspects)})" if row.suspects else name


def _counts(guardrail: str | None, rows: Sequence[Row]) -> str:
    row = next((one for one in rows if one.name == guardrail), None)
    if row is None:
        return ""
    if row.name in _NOT_COUNTED:
        return f"V2 is {interval(row.ratio)} of V1, in {row.v2.calls:,} calls."
    return (
        f"V2 has {row.v2.faults:,} events in {row.v2.calls:,} calls, V1 {row.v1.faults:,} in {row.v1.calls:,}; "
        f"V2 is {interval(row.ratio)} of V1."
    )


def _detectable(rows: Sequence[Row]) -> str:
    """The regression of faults that would be found, and when."""
    row = next((one for one in rows if one.name == "engine"), None)
    if row is None or not row.v2.calls:
        return "Too few calls to tell."
    seconds = row.detectable.seconds
    if seconds is None:
        return f"At this traffic a {row.detectable.ratio:g} × regression of faults would not be found."
    return f"A {row.detectable.ratio:g} × regression of faults would be found within {span(max(seconds, 1))}."
