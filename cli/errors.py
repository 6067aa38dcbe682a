"""Failures of a command: one line on standard error, and an exit code for scripts."""

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of commands (docs/cli.md)."""

    DONE = 0
    REFUSED = 1
    """The service (or the key file) refused; the line begins with the problem's code."""
    USAGE = 2
    """The command line, the environment or a file that they name is invalid."""
    UNREACHABLE = 3
    """No answer, or an answer that is not Poolshift's."""
    CONFLICT = 4
    """A conflict: a stale revision, or a name or a port that is taken."""
    NOT_ALLOWED = 5
    """No key, a wrong key, or a key without the scope."""


class CommandFailed(Exception):
    """Ends a command."""

    def __init__(self, exit_code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Refused(CommandFailed):
    """Ends a command that the service refuses, with the members of its problem response."""

    def __init__(self, exit_code: ExitCode, message: str, problem: dict[str, Any]) -> None:
        super().__init__(exit_code, message)
        self.code = str(problem["code"])
        self.errors: list[dict[str, str]] = problem.get("errors", [])


_OTHER_THAN_REFUSED = {
    "stale_revision": ExitCode.CONFLICT,
    "program_exists": ExitCode.CONFLICT,
    "plan_conflict": ExitCode.CONFLICT,
    "unauthorized": ExitCode.NOT_ALLOWED,
    "forbidden": ExitCode.NOT_ALLOWED,
}


def refused(problem: dict[str, Any], retry_after: str | None) -> Refused:
    """The failure that a problem response of the service is."""
    code = str(problem["code"])
    again = f" (try again in {retry_after} s)" if retry_after else ""
    exit_code = _OTHER_THAN_REFUSED.get(code, ExitCode.REFUSED)
    return Refused(exit_code, f"{code}: {problem.get('detail', code)}{again}", problem)


def printable(text: str) -> str:
    """Puts a text on one line without control characters: others wrote much of what is shown."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
