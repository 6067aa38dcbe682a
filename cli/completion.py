"""`poolshift completion`: the script by which a shell completes commands and options."""

import os
from typing import Annotated, Literal

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)
VARIABLE = "_POOLSHIFT_COMPLETE"
"""Typer's protocol: with this variable the command prints the script, or completes a line, and does nothing else."""


@app.command()
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="bash|zsh|fish")],
) -> None:
    """Prints the script that completes commands and options in a shell (docs/cli.md)."""
    from cli.main import app as root  # noqa: PLC0415 - this command is a part of that app

    os.environ[VARIABLE] = f"source_{shell}"
    try:
        root(prog_name="poolshift")
    finally:
        del os.environ[VARIABLE]  # for a caller that goes on, and for the processes that it starts
