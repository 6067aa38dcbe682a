"""Errors of a call that a worker itself finds and reports; each has its code of the taxonomy.

`pools.errors` has these, and the errors that only a pool can raise.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from poolshift.worker.lm import LMUsage

Category = Literal["request", "session", "program", "upstream", "resource", "timeout", "communication"]


class SignatureError(Exception):
    """A signature that no worker can check: a schema is not valid, or annotations do not tell the inputs and outputs.

    `at` names the part of the program that is wrong.
    """

    at = "signature"


class ExecutionError(Exception):
    """A call that did not end with outputs.

    `started` says if the program may have begun to run. A program that is not idempotent may be retried only if it
    surely has not.
    """

    code: ClassVar[str]
    category: ClassVar[Category]

    def __init__(self, detail: str, *, started: bool = True, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.started = started
        self.retry_after_s = retry_after_s
        self.run_s = 0.0
        """The time in a worker, in seconds; 0 if the call never ran."""
        self.usage: LMUsage | None = None
        """The tokens that the call used before it failed."""


class MalformedInputs(ExecutionError):
    """The inputs are not JSON (found by the worker, which is the first to parse them)."""

    code = "invalid_request"
    category = "request"


class InvalidInputs(ExecutionError):
    """The inputs do not fit the signature; `field` names the first that does not."""

    code = "invalid_inputs"
    category = "program"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail, started=False)
        self.field = field


class InvalidOutputs(ExecutionError):
    """The program's outputs do not fit the signature; `field` names the first that does not."""

    code = "invalid_outputs"
    category = "program"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class LoadFailed(ExecutionError):
    """The program's module, or its `setup()`, raised: the program itself did not start."""

    code = "load_failed"
    category = "program"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, started=False)


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
