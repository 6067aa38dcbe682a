"""The commands of `poolshift`, found by walking through its groups."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from cli.main import app


def all_commands() -> dict[str, Any]:
    """Every command by its path, such as `rollout plan show`."""
    return dict(_leaves(typer.main.get_command(app), ""))


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(command, TyperGroup):
        yield path.strip(), command
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        yield from _leaves(command.get_command(context, name), f"{path} {name}")
