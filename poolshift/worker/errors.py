"""Errors of a call that a worker itself finds and reports; each has its code of the taxonomy.

`pools.errors` has these and the errors that only a pool can tell of.
"""

from typing import ClassVar, Literal

from poolshift.worker.lm import LMUsage

Category = Literal["request", "session", "program", "upstream", "resource", "timeout", "communication"]


class ExecutionError(Exception):
    """A call that did not end with outputs.

    `started` tells whether the program may have begun to run: only where it surely did not is a retry safe for a
    program that is not idempotent.
    """

    code: ClassVar[str]
    category: ClassVar[Category]

    def __init__(self, detail: str, *, started: bool = True, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.started = started
        self.retry_after_s = retry_after_s
        self.run_s = 0.0
        """How long a worker was at it, in seconds; 0 where none was."""
        self.usage: LMUsage | None = None
        """The tokens that it took all the same."""


class MalformedInputs(ExecutionError):
    """The inputs are not JSON (found by the worker, which is the first to parse them)."""

    code = "invalid_request"
    category = "request"


class InvalidInputs(ExecutionError):
    """The inputs do not fit the signature; `field` names where."""

    code = "invalid_inputs"
    category = "program"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail, started=False)
        self.field = field


class InvalidOutputs(ExecutionError):
    """What the program returned does not fit the signature; `field` names where."""

    code = "invalid_outputs"
    category = "program"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class ProgramError(ExecutionError):
    """The program raised."""

    code = "program_error"
    category = "program"


class LMNotConfigured(ExecutionError):
    """A DSPy program was called and neither its session nor the service has an LM."""

    code = "lm_not_configured"
    category = "upstream"


class LMError(ExecutionError):
    """The LM's endpoint failed, refused, or could not be made sense of."""

    code = "lm_error"
    category = "upstream"
