"""Prints tables for people and JSON for scripts. Only a terminal gets colours."""

import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.errors import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UNBOUNDED = 100_000
"""Columns of an output that is not a terminal: its reader wants whole lines."""


def rough_time(seconds: float) -> str:
    """A time that is an estimate, in one unit."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def print_json(value: Any) -> None:
    """As the service gave it."""
    print(json.dumps(value, indent=2), flush=True)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One line for each; a column of numbers is flush right."""
    cells = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        is_number = all(isinstance(row[position], int | float) or row[position] is None for row in cells)
        table.add_column(column, justify="right" if cells and is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(_cell(value) for value in row))
    _print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """One thing, a line for each of its fields."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(Text(printable(name)), _cell(value))
    _print(table)


def print_change(result: str, name: str, lines: Iterable[str] = ()) -> None:
    """One line for a thing and what became of it, then the lines of its change; those with `-` and `+` in colours."""
    styles = {"- ": "red", "+ ": "green"}
    text = Text(f"{result:<10} ", "bold").append(printable(name), "not bold")
    for line in lines:
        text.append(f"\n{'':13}{printable(line)}", f"not bold {styles.get(line[:2], '')}")
    _print(text)


def value_text(value: Any) -> str:
    """Shows a JSON value to people: text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def when(timestamp: str | None) -> str | None:
    """A time of the service's for people: to the second, in UTC."""
    if timestamp is None:
        return None
    return datetime.fromisoformat(timestamp).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _cell(value: object) -> Text:
    if value is None:
        return Text("-")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:.10g}")
    return Text(printable(str(value)))


def _print(content: Table | Text) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the locale has no letter for
    is_terminal = sys.stdout.isatty()
    console = Console(force_terminal=is_terminal, width=None if is_terminal else _UNBOUNDED, soft_wrap=not is_terminal)
    console.print(content)
