"""Failures of a command: one line on standard error, and an exit code for scripts."""

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of commands (docs/cli.md)."""

    DONE = 0
    REFUSED = 1
    """The service (or the file of keys) says no; the line begins with the problem's code."""
    USAGE = 2
    """The command line, the environment or a file that they name makes no sense."""
    UNREACHABLE = 3
    """No answer, or not one of Poolshift's."""
    CONFLICT = 4
    """Someone else was there first: a stale revision, a name or a port that is taken."""
    NOT_ALLOWED = 5
    """No key, a wrong one, or one without the scope."""


class CommandFailed(Exception):
    """Ends a command."""

    def __init__(self, exit_code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_OTHER_THAN_REFUSED = {
    "stale_revision": ExitCode.CONFLICT,
    "program_exists": ExitCode.CONFLICT,
    "unauthorized": ExitCode.NOT_ALLOWED,
    "forbidden": ExitCode.NOT_ALLOWED,
}


def refused(problem: dict[str, Any], retry_after: str | None) -> CommandFailed:
    """The failure that a problem response of the service is."""
    code = str(problem["code"])
    again = f" (try again in {retry_after} s)" if retry_after else ""
    return CommandFailed(
        _OTHER_THAN_REFUSED.get(code, ExitCode.REFUSED), f"{code}: {problem.get('detail', code)}{again}"
    )


def printable(text: str) -> str:
    """On one line, and without what could steer a terminal: much of what is shown here was written by others."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
