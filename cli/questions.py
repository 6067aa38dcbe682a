"""Questions to a person at a terminal, before something is removed."""

import sys

import typer

from cli.errors import CommandFailed, ExitCode, printable

_INTERRUPTED = 130


def confirm(question: str, if_not: str) -> None:
    """Asks a question; anything but yes ends the command, which says `if_not`. So does Ctrl-C.

    Raises:
        CommandFailed: the answer is no, or there is none.
    """
    try:
        print(f"{printable(question)} [y/N]: ", end="", file=sys.stderr, flush=True)
        answer = input()
    except EOFError:
        print(file=sys.stderr)
        answer = ""
    except KeyboardInterrupt:
        print(f"\npoolshift: {if_not}", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandFailed(ExitCode.REFUSED, if_not)
