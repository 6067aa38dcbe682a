"""Writes a validation as Markdown, as one HTML page with plots, or as JUnit XML."""

import html
import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

_MARKS = {"met": "met", "not_met": "NOT MET", "unknown": "unknown"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; }
tr + tr td { border-top: 1px solid #d8dee6; } .met { color: #14663a; } .not_met { color: #a4161a; font-weight: 600; }
.unknown { color: #5b6675; } figure { margin: 1.5rem 0; } figcaption { color: #5b6675; }
.met, .not_met, .unknown { white-space: nowrap; }
svg { width: 100%; font-size: 14px; } svg text { fill: currentColor; } svg rect { fill: #2f6fde; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) { body { background: #12161c; color: #dfe6ee; } .met { color: #6fcf97; }
.not_met { color: #ff8a8a; } .unknown, figcaption { color: #9aa7b5; } tr + tr td { border-color: #2c3641; } }
"""
_WIDTH, _ROW, _LABELS = 928, 28, 150


def markdown(report: dict[str, Any]) -> str:
    """The checklist as a table, with what has changed since the validation before."""
    lines = [
        "# Validation of V2",
        "",
        f"{_summary(report)} Validated {_when(report['at'])} by {report['by']}; pools {report['pools']}.",
        "",
        "| item | state | evidence | to do |",
        "|---|---|---|---|",
    ]
    for one in report["items"]:
        how = f"`{one['how']}`" if _is_command(one["how"]) else one["how"]
        cells = [one["item"], _MARKS[one["state"]], one["evidence"], how]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", *_changes(report)]
    return "\n".join(lines).rstrip() + "\n"


def junit(report: dict[str, Any]) -> str:
    """A test case for each item: a failure if it is not met, skipped if it is unknown."""
    states = [one["state"] for one in report["items"]]
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<testsuite name="poolshift migration" tests="{len(states)}" failures="{states.count("not_met")}" '
        f'skipped="{states.count("unknown")}">',
    ]
    for one in report["items"]:
        told = quoteattr(one["evidence"])
        inside = {"met": "", "not_met": f"<failure message={told}/>", "unknown": f"<skipped message={told}/>"}
        lines.append(f"  <testcase name={quoteattr(one['item'])}>{inside[one['state']]}</testcase>")
    return "\n".join([*lines, "</testsuite>"]) + "\n"


def page(report: dict[str, Any]) -> str:
    """The report as one HTML page, which loads nothing."""
    rows = "".join(
        f"<tr><td>{_text(one['item'])}</td><td class={quoteattr(one['state'])}>{_MARKS[one['state']]}</td>"
        f"<td>{_text(one['evidence'])}</td><td>{_how(one['how'])}</td></tr>"
        for one in report["items"]
    )
    changes = "".join(f"<p>{_text(line)}</p>" for line in _changes(report))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Validation of V2</title>'
        f"<style>{_STYLE}</style></head><body><h1>Validation of V2</h1><p>{_text(_summary(report))}</p>"
        f"<p>Validated {_text(_when(report['at']))} by {_text(report['by'])}; pools {_text(report['pools'])}.</p>"
        "<table><thead><tr><th>item</th><th>state</th><th>evidence</th><th>to do</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{_plots(report)}{changes}</body></html>\n"
    )


def _when(at: str) -> str:
    """A time of the service as people read it, to the second."""
    return f"{at[:19].replace('T', ' ')} UTC"


def _is_command(how: str) -> bool:
    return how.startswith("poolshift ")


def _how(how: str) -> str:
    return f"<code>{_text(how)}</code>" if _is_command(how) else _text(how)


def _summary(report: dict[str, Any]) -> str:
    states = [one["state"] for one in report["items"]]
    counts = [f"{states.count(state)} {mark.lower()}" for state, mark in _MARKS.items() if states.count(state)]
    return f"{', '.join(counts)} of {len(states)} items."


def _changes(report: dict[str, Any]) -> list[str]:
    before = report.get("before")
    if not before:
        return []
    earlier = {one["item"]: one["state"] for one in before["items"]}
    changed = [
        f"{one['item']}: {_MARKS[earlier[one['item']]]} → {_MARKS[one['state']]}"
        for one in report["items"]
        if one["item"] in earlier and earlier[one["item"]] != one["state"]
    ]
    told = "; ".join(changed) or "nothing"
    return [f"Changed since the validation of {before['at']}: {told}."]


def _plots(report: dict[str, Any]) -> str:
    """The ratios of throughputs and the growth of memory with their intervals, and the latencies behind them."""
    benchmarks, memory = (report["report"].get(name, {}) for name in ("benchmarks", "memory"))
    ratios = {f"{clients} at once": one["interval"] for clients, one in benchmarks.items() if "interval" in one}
    growth = {name: one["interval"] for name, one in memory.items() if "interval" in one}
    return (
        _plot("V2's throughput over V1's, 95 % intervals", ratios, (1, "equal"), "{:.2f}")
        + _latencies(benchmarks)
        + _plot("Growth of memory in bytes a call, 95 % intervals", growth, (1024, "limit"), "{:.0f}")
    )


def _plot(title: str, rows: dict[str, Sequence[float]], mark: tuple[float, str], form: str) -> str:
    """A bar for each interval, on an axis that holds all of them, 0 and the mark."""
    if not rows:
        return ""
    bounds = [bound for pair in rows.values() for bound in pair if math.isfinite(bound)]
    low, high = min([0.0, *bounds]), max([1.25 * mark[0], *bounds])

    def x(value: float) -> float:
        return round(_LABELS + (_WIDTH - _LABELS - 10) * (min(max(value, low), high) - low) / (high - low), 1)

    height = _ROW * (len(rows) + 1)
    parts = []
    for value, name in ((0, "0"), (mark[0], f"{mark[0]:g} ({mark[1]})")):
        parts.append(
            f'<line x1="{x(value)}" x2="{x(value)}" y1="0" y2="{height - _ROW}" stroke="currentColor" '
            f'stroke-dasharray="3" opacity=".6"/>'
            f'<text x="{x(value)}" y="{height - 8}" text-anchor="middle">{name}</text>'
        )
    for index, (name, (begin, end)) in enumerate(rows.items()):
        y = _ROW * index + _ROW / 2
        parts.append(f'<text x="0" y="{y + 4}">{_text(name)}</text>')
        parts.append(f'<rect x="{x(begin)}" width="{max(2.0, x(end) - x(begin)):.1f}" y="{y - 3}" height="6" rx="3"/>')
    told = "; ".join(f"{name}: {form.format(begin)} to {form.format(end)}" for name, (begin, end) in rows.items())
    return (
        f'<figure><figcaption><b>{_text(title)}</b></figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f"aria-label={quoteattr(told)}>{''.join(parts)}</svg><figcaption>{_text(told)}.</figcaption></figure>"
    )


def _latencies(benchmarks: dict[str, Any]) -> str:
    """Calls a second, and the quantiles of their time, by version and number of calls at once."""
    names = ("calls_per_s", "p50", "p95", "p99")
    rows = "".join(
        f"<tr><td>{_text(clients)}</td><td>{version.upper()}</td>"
        + "".join(f'<td class="number">{one[version].get(name, 0):,.1f}</td>' for name in names)
        + "</tr>"
        for clients, one in benchmarks.items()
        for version in ("v1", "v2")
        if "interval" in one and version in one
    )
    if not rows:
        return ""
    heads = "".join(f'<th class="number">{name}</th>' for name in ("calls/s", "p50 ms", "p95 ms", "p99 ms"))
    return f"<table><thead><tr><th>at once</th><th>version</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(text: str) -> str:
    return escape(text).replace("|", r"\|").replace("\n", " ")


def _text(text: Any) -> str:
    return html.escape(str(text))
