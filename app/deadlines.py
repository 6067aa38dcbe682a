"""The deadlines of calls and jobs: how long each may take if it asks for nothing, and how much it may ask for.

Nothing is cut in silence. A call that asks for more than it may have is refused with the name of the limit.
"""

from dataclasses import dataclass
from typing import Final

from app.problems import Problem
from config.settings import Settings
from poolshift.worker.definitions import Definition

CALL: Final = "EXECUTION_TIMEOUT_S"
JOB: Final = "JOB_TIMEOUT_S"
PROGRAM: Final = "the program's own timeout_s"
_AS_A_JOB: Final = "send `Prefer: respond-async` for a job, which may take up to"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The limits in seconds: `call_s` of a call that its client waits for, `job_s` of one in the background."""

    call_s: float
    job_s: float

    @staticmethod
    def of(settings: Settings) -> "Deadlines":
        """Reads the limits. A job may always take as long as a call."""
        call_s = settings.execution_timeout_s
        return Deadlines(call_s, max(settings.job_timeout_s, call_s))

    def seconds(self, asked_s: float | None, definition: Definition, *, is_job: bool) -> float:
        """Returns the time that a call has, from now on.

        Raises:
            Problem: `invalid_request`, if the call asks for more than it may have.
        """
        limit_s, name = self._limit(definition, is_job=is_job)
        if asked_s is None or asked_s == limit_s:
            return limit_s
        if asked_s > limit_s:
            detail = f"body.timeout_s: {asked_s:g} s is over {name} ({limit_s:g} s)"
            raise Problem("invalid_request", f"{detail}{self._way_out(limit_s, definition, is_job=is_job)}")
        return asked_s

    def check_definition(self, definition: Definition) -> None:
        """Raises Problem if a program asks for more time than a job may take."""
        asked_s = _own_limit(definition)
        if asked_s is not None and asked_s > self.job_s:
            raise Problem("invalid_request", f"body.timeout_s: {asked_s:g} s is over {JOB} ({self.job_s:g} s)")

    def hint(self, definition: Definition) -> str:
        """Says how a call of the program gets the time that the program allows; empty if a call has it already."""
        asked_s = _own_limit(definition)
        if asked_s is None or asked_s <= self.call_s:
            return ""
        return f": {CALL} is {self.call_s:g} s; {_AS_A_JOB} {self._limit(definition, is_job=True)[0]:g} s"

    def _limit(self, definition: Definition, *, is_job: bool) -> tuple[float, str]:
        limit = (self.job_s, JOB) if is_job else (self.call_s, CALL)
        own_s = _own_limit(definition)
        return limit if own_s is None or own_s >= limit[0] else (own_s, PROGRAM)

    def _way_out(self, limit_s: float, definition: Definition, *, is_job: bool) -> str:
        longest_s = self._limit(definition, is_job=True)[0]
        return "" if is_job or longest_s <= limit_s else f": {_AS_A_JOB} {longest_s:g} s"


def _own_limit(definition: Definition) -> float | None:
    return None if definition.limits is None else definition.limits.timeout_s
