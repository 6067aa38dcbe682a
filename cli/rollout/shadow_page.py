"""The report of shadow calls as Markdown and as one page of HTML, with the worst examples side by side."""

from collections.abc import Mapping
from html import escape
from typing import Any

from cli.output import rough_time

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
tr.differs { background: #fdecea }
tr.suspected { background: #fff6e0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 13px }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
""".strip()
_SHED = {
    "busy": "since V2 or the machine was busy",
    "event_loop_busy": "since the service's event loop was busy",
    "no_idle_worker": "since V2 had no worker to spare: give it a larger V2_POOL_SIZE, or copy a smaller share",
    "preempted": "ended for a real call",
    "outputs_too_deep": "whose outputs are nested too deeply",
    "processors_busy": "since the machine's processors were busy: see SHADOW_MAX_CPU_PERCENT",
    "quarantined": "of programs that cost V2 three workers in a row",
    "too_many_at_once": "since more came at once than may begin: copy a smaller share",
    "too_many_programs": "of more programs or outputs than are compared",
}
"""The reasons of calls that were not compared, in words; others are codes of errors."""
_COLUMNS = ("Program", "Field", "Compared", "Differing", "Noise", "Differs", "Really differ", "Missing")


def markdown_report(title: str, found: dict[str, Any]) -> str:
    """Writes the report as Markdown."""
    lines = [f"# {title}", "", sentence(found), "", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    lines += [_row(_cells(row)) for row in found["fields"]]
    if found["quality"] is not None:
        lines += ["", quality_sentence(found["quality"])]
    if found["metric_failures"]:
        lines += ["", failures_sentence(found["metric_failures"])]
    for example in found["examples"]:
        lines += ["", f"## {_in_line(example['program_id'])}: {_in_line(_fields_of(example))}", ""]
        if example["inputs"] is None:
            lines.append("The values are for keys with the scope admin.")
            continue
        lines += _fenced("Inputs", example["inputs"])
        for name in ("v1", "v2"):
            lines += _fenced(name.upper(), "\n".join(f"{key}: {value}" for key, value in example[name].items()))
        lines += _fenced("Difference", "\n".join(example["diff"]))
    return "\n".join(lines)


def html_report(title: str, found: dict[str, Any]) -> str:
    """Writes the report as a page that needs nothing else. All values are escaped: they are users' data."""
    head = "".join(f"<th>{escape(column)}</th>" for column in _COLUMNS)
    rows = "\n".join(
        f'<tr class="{row.get("verdict", "differs" if row["differs"] else "same")}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row))
        + "</tr>"
        for row in found["fields"]
    )
    sentences = [] if found["quality"] is None else [quality_sentence(found["quality"])]
    sentences += [failures_sentence(found["metric_failures"])] if found["metric_failures"] else []
    quality = "\n".join(f"<p>{escape(one)}</p>" for one in sentences)
    examples = "\n".join(map(_example, found["examples"]))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{escape(sentence(found))}</p>
<table><thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody></table>
{quality}
{examples}
</body>
</html>"""


def _example(example: dict[str, Any]) -> str:
    heading = f"<h2>{escape(example['program_id'])}: {escape(_fields_of(example))}</h2>"
    if example["inputs"] is None:
        return f"{heading}\n<p>The values are for keys with the scope admin.</p>"
    sides = "".join(
        f"<div><h3>{name.upper()}</h3><pre>"
        + escape("\n".join(f"{key}: {value}" for key, value in example[name].items()))
        + "</pre></div>"
        for name in ("v1", "v2")
    )
    difference = escape("\n".join(example["diff"]))
    inputs = escape(example["inputs"])
    return f'{heading}\n<pre>{inputs}</pre>\n<div class="pair">{sides}</div>\n<pre>{difference}</pre>'


def counts_text(counts: Mapping[str, int]) -> str:
    """Lists counts by name, such as the codes of errors."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def sentence(found: dict[str, Any]) -> str:
    """Tells how many calls were compared, why others were not, and which programs V2 has never run."""
    told = f"{found['compared']} calls compared, {found['differing']} differing, {found['shed']} shed"
    failed = found.get("failed_alike", {})
    if failed:
        told += f", {sum(failed.values())} with the same error on both versions ({counts_text(failed)})"
    reasons = [f"{count} {_SHED.get(reason, reason)}" for reason, count in sorted(found["shed_reasons"].items())]
    told = f"{told} ({', '.join(reasons)})." if reasons else f"{told}."
    never = found.get("never_run")
    return f"{told} V2 has never run: {', '.join(never)}." if never else told


def verdict_text(row: dict[str, Any]) -> str:
    """The verdict on a field; a service of before this release tells only if it differs."""
    words = {"differs": "differs", "suspected": "suspected", "alike": "no", "unknown": "not yet known"}
    return words[row.get("verdict", "differs" if row["differs"] else "unknown")]


def missing_text(row: dict[str, Any]) -> str:
    """Tells how many comparisons are missing until the field is likely to differ, or to be alike, and their time."""
    missing = row.get("missing")
    if missing is None:
        return "-"
    time = "" if missing["seconds"] is None else f", {rough_time(missing['seconds'])}"
    return f"{missing['calls']:,} calls{time}"


def quality_sentence(quality: dict[str, Any]) -> str:
    """Tells the means of the scores, and the verdict on them."""
    means = ["none" if mean is None else f"{mean:.3f}" for mean in (quality["v1_mean"], quality["v2_mean"])]
    verdict = "V2 is worse" if quality["worse"] else "V2 is not worse" if quality["not_worse"] else "no verdict yet"
    calls = "{} organic calls of V1 and {} of V2".format(*quality["organic"])
    return f"Quality: V1 {means[0]}, V2 {means[1]}, by {quality['pairs']} pairs, {calls}; {verdict}."


def failures_sentence(failures: dict[str, int]) -> str:
    """Tells how often a metric gave no score."""
    told = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(failures.items()))
    return f"Metrics without a score: {told}."


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    counts = [str(row[name]) for name in ("compared", "differing", "noise")]
    return [
        row["program_id"],
        row["field"],
        *counts,
        verdict_text(row),
        f"{100 * low:.2f} % to {100 * high:.2f} %",
        missing_text(row),
    ]


def _row(cells: Any) -> str:
    return f"| {' | '.join(_in_line(cell) for cell in cells)} |"


def _in_line(text: str) -> str:
    """A text of a user's inside a line of Markdown: as it is, and nothing else."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|" else letter for letter in text.replace("\n", " "))


def _fields_of(example: dict[str, Any]) -> str:
    return ", ".join(f"{field} ({odd} is the odd one)" for field, odd in example["odd"].items())


def _fenced(name: str, text: str) -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{name}:", "", f"{fence}text", text, fence, ""]
