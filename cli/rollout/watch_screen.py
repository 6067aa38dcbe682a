"""The screen of `poolshift rollout watch`: a pure function of what the service has said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.errors import printable
from cli.output import rough_time

BAR_WIDTH = 20
STEPS_SHOWN = 9
_STYLE_OF_STATE = {
    "ramping": "green",
    "waiting": "cyan",
    "paused": "yellow",
    "promoted": "bold green",
    "rolled_back": "bold red",
    "aborted": "bold red",
}


@dataclass(frozen=True)
class Seen:
    """The answers of one look."""

    status: dict[str, Any]
    rows: Sequence[dict[str, Any]]
    plan: dict[str, Any] | None
    at: datetime
    problem: str | None = None
    """The reason why a later look got no answer."""

    def unanswered(self, problem: str) -> "Seen":
        """The same after a look without an answer."""
        return replace(self, problem=problem)


def screen(seen: Seen) -> RenderableType:
    """The whole screen, the verdict in words first."""
    parts: list[RenderableType] = [_headline(seen), Text(printable(f"Next: {seen.status['next']}"))]
    if promotion := promotion_text(seen.status):
        parts.append(Text(f"Promotion waits for: {promotion}"))
    if seen.status["reason"]:
        parts.append(Text(printable(f"Reason: {seen.status['reason']} ({seen.status['by']})")))
    parts.append(Text(f"Split: {split_text(seen.status['split'])}{_in_force(seen.status)}"))
    if seen.status.get("shadow_percent"):
        parts.append(Text(f"Shadow: {seen.status.get('shadow_percent', 0):g} % of V1's calls also run on V2"))
    if seen.problem is not None:
        at = f"{seen.at:%H:%M:%S}Z"
        parts.append(Text(printable(f"No answer since {at}, tried again each second: {seen.problem}"), style="red"))
    if seen.plan is not None:
        parts += [Text(), _steps(seen.plan["steps"], seen.status["step"])]
    return Group(*parts, Text(), _guardrails(seen.rows))


def verdict_text(seen: Seen) -> str:
    """The judge's verdict as a sentence."""
    status = seen.status
    compared = [row for row in seen.rows if row["v1"]["calls"] or row["v2"]["calls"]]
    if not compared:
        return "No evidence yet: no organic calls have been compared."
    if status["guardrail"] is not None:
        words = {"rollback": "V2 is worse", "pause": "Something is wrong"}.get(status["verdict"], "")
        return f"{words}: the evidence of {status['guardrail']} has reached its threshold."
    if status["verdict"] == "promote":
        return "V2 is no worse than V1: the evidence is enough for a promotion."
    if told := [_suspicion(row) for row in seen.rows if row.get("finding") == "suspected"]:
        return f"Suspected, and not shown: {'; '.join(told)}."
    nearest = max(compared, key=_share)
    return f"Nothing speaks against V2; {nearest['name']} is nearest, at {_share(nearest):.0%} of its threshold."


def finding_text(row: dict[str, Any]) -> str:
    """A guardrail's word on V2, with what is missing until it is known."""
    until = row.get("until_shown")
    if row.get("finding", "unknown") != "unknown" or until is None:
        return _word(row)
    time = "" if until["seconds"] is None else f", {rough_time(until['seconds'])}"
    return f"{_word(row)} ({until['calls']:,} calls{time})"


def _word(row: dict[str, Any]) -> str:
    words = {"against": "worse", "suspected": "suspected", "alike": "no worse", "unknown": "not yet known"}
    return words[row.get("finding", "unknown")]


def promotion_text(status: dict[str, Any]) -> str:
    """Tells for each guardrail that a promotion waits for when its evidence is likely; empty if it waits for none."""
    return ", ".join(map(_outstanding, status.get("promotion", ())))


def _outstanding(one: dict[str, Any]) -> str:
    if one["calls"] is None:
        return f"{one['guardrail']} not to be foreseen yet"
    time = "" if one["seconds"] is None else f"{rough_time(one['seconds'])}, "
    return f"{one['guardrail']} in about {time}{one['calls']:,} calls"


def _suspicion(row: dict[str, Any]) -> str:
    suspects = f", {', '.join(row['suspects'])}" if row.get("suspects") else ""
    return f"{row['name']}{suspects}, at {_share(row):.0%} of its threshold"


def split_text(split: dict[str, Any]) -> str:
    """The share asked for, and the one seen. The judge counts no calls while one version gets them all."""
    if split["seen_percent"] is None and split["asked_percent"] in (0, 100):
        return f"{split['asked_percent']:g} % asked for"
    seen = "none seen yet" if split["seen_percent"] is None else f"{split['seen_percent']:.2f} % seen"
    return f"{split['asked_percent']:g} % asked for, {seen} ({split['v1']:,} calls to V1, {split['v2']:,} to V2)"


def percent_text(step: dict[str, Any]) -> str:
    """The share of V2 at a step."""
    return f"{step['percent']:g} %"


def condition_texts(step: dict[str, Any]) -> tuple[str, str, str]:
    """The conditions for leaving a step: hold, calls, approval."""
    return duration_text(step["hold_s"]), f"{step['min_calls']:,}", "a person's" if step["approval"] else "-"


def duration_text(seconds: float) -> str:
    """Seconds in the largest unit that leaves no remainder."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _headline(seen: Seen) -> Text:
    state = seen.status["state"]
    headline = Text(state.replace("_", " ").capitalize(), style=_STYLE_OF_STATE.get(state, "bold"))
    name = seen.plan["name"] if seen.plan is not None else "no plan"
    where = f", step {seen.status['step']} of {seen.status['steps']}" if seen.status["step"] else ""
    warning = f"{seen.status['warning']}. " if seen.status.get("warning") else ""
    headline.append(printable(f" ({name}{where}). "), style="default").append(warning, style="bold yellow")
    return headline.append(printable(verdict_text(seen)), style="default")


def _in_force(status: dict[str, Any]) -> str:
    if status["silent"]:
        return printable(f"; silent: {', '.join(status['silent'])}")
    return "" if status["in_force"] else "; not in force on every replica yet"


def _steps(steps: Sequence[dict[str, Any]], current: int) -> Table:
    """The steps around the current one, which counts from 1."""
    first = max(0, min(current - 1 - STEPS_SHOWN // 2, len(steps) - STEPS_SHOWN))
    table = _table("", "step", "V2", "hold", "calls", "approval")
    for index, step in list(enumerate(steps, start=1))[first : first + STEPS_SHOWN]:
        mark = "✓" if index < current else "▶" if index == current else " "
        style = "bold" if index == current else "dim" if index < current else ""
        table.add_row(mark, str(index), percent_text(step), *condition_texts(step), style=style)
    return table


def _guardrails(rows: Iterable[dict[str, Any]]) -> Table:
    """A line for each guardrail that has seen calls."""
    calls = ("V1 faults / calls", "V2 faults / calls")
    table = _table("guardrail", "acts by", "V2 is", *calls, "V2 over V1", "evidence", "")
    for row in rows:
        if not (row["v1"]["calls"] or row["v2"]["calls"]):
            continue
        table.add_row(
            printable(row["name"]),
            row["action"],
            _word(row),
            _tally(row["v1"]),
            _tally(row["v2"]),
            _interval(row["ratio"]),
            _bar(row),
            Text(printable(f"{row['log_e']:.1f} of {row['threshold']:.1f}{_stratum(row)}")),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column in ("step", "V2", "hold", "calls") or column.endswith(" calls")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column != "")
    return table


def _tally(tally: dict[str, Any]) -> str:
    return f"{tally['faults']:,} / {tally['calls']:,}"


def _interval(ratio: Sequence[float | None]) -> str:
    low, high = ratio
    return f"{low or 0.0:.2f} to {'any' if high is None else format(high, '.2f')}"


def _share(row: dict[str, Any]) -> float:
    """The part of the way to its threshold a guardrail's evidence has covered, 0 to 1."""
    share: float = row["log_e"] / row["threshold"]
    return max(0.0, min(1.0, share))


def _bar(row: dict[str, Any]) -> Text:
    share = _share(row)
    full = round(share * BAR_WIDTH)
    style = "red" if share >= 1 else "yellow" if share >= 0.5 else "green"
    return Text("█" * full, style=style).append("░" * (BAR_WIDTH - full), style="dim")


def _stratum(row: dict[str, Any]) -> str:
    return "" if row["stratum"] == "all" else f", {row['stratum']}"
