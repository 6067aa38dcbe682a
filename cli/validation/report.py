"""Writes a validation as Markdown, as one HTML page with plots, or as JUnit XML."""

import html
from typing import Any
from xml.sax.saxutils import escape, quoteattr

_MARKS = {"met": "met", "not_met": "NOT MET", "unknown": "unknown"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; }
tr + tr td { border-top: 1px solid #d8dee6; } .met { color: #14663a; } .not_met { color: #a4161a; font-weight: 600; }
.unknown { color: #5b6675; } figure { margin: 1.5rem 0; } figcaption { color: #5b6675; } svg { max-width: 100%; }
@media (prefers-color-scheme: dark) { body { background: #12161c; color: #dfe6ee; } .met { color: #6fcf97; }
.not_met { color: #ff8a8a; } .unknown, figcaption { color: #9aa7b5; } tr + tr td { border-color: #2c3641; } }
"""
_WIDTH, _ROW = 640, 28
_SCALE_MAX = 2.0


def markdown(report: dict[str, Any]) -> str:
    """The checklist as a table, with what has changed since the validation before."""
    lines = [
        "# Validation of V2",
        "",
        f"{_summary(report)} Validated {report['at']} by {report['by']}; pools {report['pools']}.",
        "",
        "| item | state | evidence | to do |",
        "|---|---|---|---|",
    ]
    for one in report["items"]:
        cells = [one["item"], _MARKS[one["state"]], one["evidence"], f"`{one['how']}`" if one["how"] else ""]
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
        f"<td>{_text(one['evidence'])}</td><td><code>{_text(one['how'])}</code></td></tr>"
        for one in report["items"]
    )
    changes = "".join(f"<p>{_text(line)}</p>" for line in _changes(report))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Validation of V2</title>'
        f"<style>{_STYLE}</style></head><body><h1>Validation of V2</h1><p>{_text(_summary(report))}</p>"
        f"<p>Validated {_text(report['at'])} by {_text(report['by'])}; pools {_text(report['pools'])}.</p>"
        "<table><thead><tr><th>item</th><th>state</th><th>evidence</th><th>to do</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{_plots(report)}{changes}</body></html>\n"
    )


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
    """The ratio of throughputs with its interval, for each number of clients."""
    figures = report["report"].get("benchmarks", {})
    rows = [(f"{clients} at once", one["interval"]) for clients, one in figures.items() if "interval" in one]
    if not rows:
        return ""
    height = _ROW * (len(rows) + 1)
    marks = [
        f'<line x1="{_x(1)}" x2="{_x(1)}" y1="0" y2="{height - _ROW}" stroke="currentColor" stroke-dasharray="3"/>'
    ]
    for index, (name, (low, high)) in enumerate(rows):
        y = _ROW * index + _ROW / 2
        marks.append(f'<text x="0" y="{y + 5}" fill="currentColor" font-size="13">{_text(name)}</text>')
        marks.append(f'<line x1="{_x(low)}" x2="{_x(high)}" y1="{y}" y2="{y}" stroke="#2f6fde" stroke-width="6"/>')
    marks.append(f'<text x="{_x(1) - 10}" y="{height - 8}" fill="currentColor" font-size="13">1 ×</text>')
    told = "; ".join(f"{name}: {low:.2f} to {high:.2f}" for name, (low, high) in rows)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label={quoteattr(told)}>{"".join(marks)}</svg>'
        f"<figcaption>V2's throughput over V1's, 95 % intervals. {_text(told)}.</figcaption></figure>"
    )


def _x(ratio: float) -> float:
    """The place of a ratio on the axis, which ends at `_SCALE_MAX`."""
    return round(120 + (_WIDTH - 140) * min(max(ratio, 0.0), _SCALE_MAX) / _SCALE_MAX, 1)


def _cell(text: str) -> str:
    return escape(text).replace("|", r"\|").replace("\n", " ")


def _text(text: Any) -> str:
    return html.escape(str(text))
