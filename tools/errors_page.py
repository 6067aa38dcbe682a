"""Writes the table of codes in docs/errors.md from `app/problem_kinds.py`: `python -m tools.errors_page`."""

import re
from pathlib import Path

from app.problem_kinds import KINDS

PAGE = Path(__file__).resolve().parents[1] / "docs/errors.md"
_HEAD = (
    "| code | status | category | when | retry_safe | headers | what a caller should do |\n"
    "|---|---|---|---|---|---|---|\n"
)
_TABLE = re.compile(re.escape(_HEAD) + r"(?:\|.*\n)*")


def table() -> str:
    """Returns the table, a row for each code."""
    rows = (
        (
            f"`{code}`",
            str(kind.status),
            kind.category,
            kind.when,
            "yes" if kind.retry_safe else "no",
            ", ".join(f"`{header}`" for header in kind.headers),
            kind.remedy,
        )
        for code, kind in KINDS.items()
    )
    return _HEAD + "".join("| " + " | ".join(row).replace("|  |", "| |") + " |\n" for row in rows)


def renewed(text: str) -> str:
    """Returns the text of the page with the table as it is now."""
    return _TABLE.sub(lambda _: table(), text, count=1)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
