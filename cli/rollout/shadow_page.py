"""The report of shadow calls as Markdown and as one page of HTML, with the worst examples side by side."""

from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
tr.differs { background: #fdecea }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 13px }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
""".strip()
_COLUMNS = ("Program", "Field", "Compared", "Differing", "Noise", "Differs", "Really differ")


def markdown_report(title: str, found: dict[str, Any]) -> str:
    """Writes the report as Markdown."""
    lines = [f"# {title}", "", _sentence(found), "", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    lines += [_row(_cells(row)) for row in found["fields"]]
    if found["quality"] is not None:
        lines += ["", _quality(found["quality"])]
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
        f'<tr class="{"differs" if row["differs"] else "same"}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row))
        + "</tr>"
        for row in found["fields"]
    )
    quality = "" if found["quality"] is None else f"<p>{escape(_quality(found['quality']))}</p>"
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
<p>{escape(_sentence(found))}</p>
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


def _sentence(found: dict[str, Any]) -> str:
    return f"{found['compared']} calls compared, {found['differing']} differing, {found['shed']} shed."


def _quality(quality: dict[str, Any]) -> str:
    means = ["none" if mean is None else f"{mean:.3f}" for mean in (quality["v1_mean"], quality["v2_mean"])]
    verdict = "V2 is worse" if quality["worse"] else "V2 is not worse" if quality["not_worse"] else "no verdict yet"
    return f"Quality: V1 {means[0]}, V2 {means[1]}, {quality['pairs']} pairs; {verdict}."


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    counts = [str(row[name]) for name in ("compared", "differing", "noise")]
    return [
        row["program_id"],
        row["field"],
        *counts,
        "yes" if row["differs"] else "no",
        f"{100 * low:.2f} % to {100 * high:.2f} %",
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
