"""Tries an LM by one small completion, as a program of its own."""

from typing import Any

import dspy
import msgspec

from poolshift.worker.definitions import Definition
from poolshift.worker.dspy.client import ask, failures_of
from poolshift.worker.dspy.usage import counted_for
from poolshift.worker.errors import LMNotConfigured
from poolshift.worker.exception_text import truncate
from poolshift.worker.lm import LMRun
from poolshift.worker.loading import Emit, RunBesideOthers

PROMPT = "Answer with the word OK."
_MAX_TOLD = 200
"""Characters of the LM's answer."""


class LMTrial:
    """Asks the LM of a call for a word. Whatever it answers is right: only an LM that cannot be asked fails."""

    def __init__(self, definition: Definition) -> None:
        self.signature = definition.signature

    def run(self, inputs: bytes | memoryview, emit: Emit, lm: LMRun | None) -> bytes:
        """Returns the beginning of the LM's answer as JSON. Raises LMError, LMNotConfigured."""
        if lm is None:
            raise LMNotConfigured("there is no LM to try")
        with failures_of(lm.settings), counted_for(lm):
            answer = ask(lm, _complete)
        return msgspec.json.encode({"answer": truncate(str(answer), _MAX_TOLD)})

    beside_others: RunBesideOthers | None = None

    def close(self) -> None:
        """Does nothing: it holds nothing."""


def _complete() -> Any:
    return dspy.settings.lm(PROMPT)
