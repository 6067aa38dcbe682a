"""Failures of a command: one line on standard error, and an exit code for scripts."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `serve` starts without the client
    from poolshift.client import PoolshiftError


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

    def __init__(self, exit_code: ExitCode, message: str, error: "PoolshiftError") -> None:
        super().__init__(exit_code, message)
        self.code = error.code
        self.errors: list[dict[str, str]] = error.extensions.get("errors", [])


_OTHER_THAN_REFUSED = {
    "stale_revision": ExitCode.CONFLICT,
    "program_exists": ExitCode.CONFLICT,
    "plan_conflict": ExitCode.CONFLICT,
    "idempotency_conflict": ExitCode.CONFLICT,
    "unauthorized": ExitCode.NOT_ALLOWED,
    "forbidden": ExitCode.NOT_ALLOWED,
}


def refused(error: "PoolshiftError") -> Refused:
    """The failure that an error of the service is."""
    again = "" if error.retry_after is None else f" (try again in {error.retry_after:g} s)"
    exit_code = _OTHER_THAN_REFUSED.get(error.code, ExitCode.REFUSED)
    return Refused(exit_code, f"{error}{again}", error)


def printable(text: str) -> str:
    """Puts a text on one line without control characters: others wrote much of what is shown."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
