"""Picks the organic calls that are copied. Every call passes here, so the module is compiled (docs/adr/0007)."""

import random
from collections.abc import Callable, Sized
from typing import Final

from pools.calls import Call, Program, Result
from routing.rollout.live_judge import Evidence
from routing.telemetry.call_trace import CallTrace
from routing.versions import Decision, Reason, Version

MAX_WAITING: Final = 64
"""Captured calls that wait for a worker."""
COMPARED_ERRORS: Final = frozenset({"program_error", "invalid_outputs", "invalid_inputs", "lm_error"})
"""Errors of V1 that are an answer, which V2 must give too."""

Capture = Callable[[Call, str | None, Result | None, str | None, CallTrace | None], None]
"""Takes a call that is to be copied, with its session, its result or its error's code, and its trace."""
Score = Callable[[Version, Call, Evidence, Result], None]
"""Takes a call whose program has a metric."""

_ORGANIC: Final = Reason.SPLIT
_V1: Final = Version.V1


class ShadowTap:
    """Listens to the ends of all calls, and hands on the few that chance picks."""

    def __init__(self, waiting: Sized, capture: Capture, score: Score) -> None:
        """Captures no call while `MAX_WAITING` are `waiting`."""
        self.threshold = 0
        """The number of copies of 2^32 calls of V1 that may be copied."""
        self.refused: dict[Program, int] = {}
        """Calls that there was no room for, until somebody counts them."""
        self._waiting = waiting
        self._capture = capture
        self._score = score

    def call_ended(
        self,
        decision: Decision,
        call: Call,
        key: str | None,
        evidence: Evidence | None,
        result: Result | None,
        code: str | None,
        trace: CallTrace | None,
    ) -> None:
        """Hands on an organic call that has ended, if it is to be copied or scored."""
        if decision.reason is not _ORGANIC:
            return
        program = call.program
        definition = program.definition
        if definition.metric is not None and result is not None and evidence is not None:
            self._score(decision.version, call, evidence, result)
        if decision.version is not _V1 or not (definition.idempotent or definition.shadow):
            return
        if random.getrandbits(32) >= self.threshold or (code is not None and code not in COMPARED_ERRORS):
            return
        if len(self._waiting) < MAX_WAITING:
            self._capture(call, key, result, code, trace)
        else:  # the busiest moment of the service: nothing but a count
            self.refused[program] = self.refused.get(program, 0) + 1
