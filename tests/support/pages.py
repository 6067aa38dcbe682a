"""Reads the Markdown pages in `docs`: their tables and their fenced blocks."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.service import ROOT

_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_CELL_END = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: what stands behind the fence, and what is in it."""

    info: str
    text: str

    def json(self) -> Any:
        """Parses the text as JSON."""
        return json.loads(self.text)


def page(name: str) -> str:
    """A page of `docs`."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Returns the text under `heading`, up to the next heading of its level or above."""
    lines = text.splitlines()
    start = lines.index(heading)
    level = len(heading) - len(heading.lstrip("#"))
    for end, line in enumerate(lines[start + 1 :], start + 1):
        marks = len(line) - len(line.lstrip("#"))
        if 0 < marks <= level and line[marks] == " ":
            return "\n".join(lines[start:end])
    return "\n".join(lines[start:])


def table(text: str, first_column: str) -> list[dict[str, str]]:
    """The rows of the table whose first column is called so; each cell by its column's name."""
    lines = iter(text.splitlines())
    for line in lines:
        header = _cells(line)
        if header and header[0] == first_column:
            next(lines)  # the line of dashes
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                cells = _cells(row)
                assert len(cells) == len(header), f"{len(cells)} cells under {len(header)} columns: {row}"
                rows.append(dict(zip(header, cells, strict=True)))
            return rows
    raise AssertionError(f"no table that begins with the column {first_column!r}")


def codes(cell: str) -> list[str]:
    """Returns the texts between backticks in a cell, in order."""
    return _CODE.findall(cell)


def blocks(text: str) -> list[Block]:
    """Every fenced block, in order."""
    return [Block(found["info"].strip(), found["text"]) for found in _FENCE.finditer(text)]


def links(text: str) -> list[Path]:
    """The files of this repository that a page of `docs` points to."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    return [(ROOT / "docs" / target).resolve() for target in targets if "://" not in target]


def _cells(line: str) -> list[str]:
    if not line.startswith("|"):
        return []
    return [cell.strip().replace("\\|", "|") for cell in _CELL_END.split(line)[1:-1]]
