"""Compares both versions on inputs that somebody has: real calls, forced on each version, in no organic figure."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from analysis.odd_ones import Odd
from common.threads import in_thread
from pools.calls import Call
from pools.errors import CheckoutTimeout, ExecutionError, PoolClosed, PoolOverloaded
from routing.catalog.lms import LMs
from routing.catalog.programs import CataloguedProgram
from routing.router import Router
from routing.shadow.comparison import Comparison, Outcome, differing
from routing.shadow.examples import Example, make_example
from routing.versions import Version

OPERATION: Final = "synthetic"
Verdict = Odd | Literal["same"]


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparison of one call: by field, if it is the same, else the odd one; with an example if any differs."""

    fields: Mapping[str, Verdict]
    v1_error: str | None
    """The code of V1's error; None if it has outputs."""
    v2_error: str | None
    v1_ms: float
    v2_ms: float
    example: Example | None


class OnDemand:
    """Runs a call on V1 and on V2, and on V1 once more where they differ. The calls wait for workers as others do."""

    def __init__(self, router: Router, lms: LMs, *, keeps_examples: bool) -> None:
        self._router = router
        self._lms = lms
        self._keeps_examples = keeps_examples

    async def compare(
        self, program: CataloguedProgram, inputs: bytes, session_id: str | None, timeout_s: float
    ) -> Compared:
        """Compares both versions on `inputs`.

        Raises:
            CheckoutTimeout, PoolClosed, PoolOverloaded: a version is too busy, which says nothing of its answer.
        """
        comparison = Comparison(program.definition.signature)
        run = partial(self._run, program, inputs, session_id, timeout_s)
        first, second = await asyncio.gather(run(Version.V1), run(Version.V2))
        same = await in_thread(partial(comparison.compare, first, second))
        others = differing(same)
        fields: dict[str, Verdict] = {name: "unknown" if one is None else "same" for name, one in same.items()}
        if not others:
            return Compared(fields, first.code, second.code, first.ms, second.ms, None)
        third = await run(Version.V1)
        odd = await in_thread(partial(comparison.odd_ones, others, first, second, third))
        fields |= odd
        example = None
        if self._keeps_examples:
            make = partial(make_example, uuid.uuid4().hex, None, odd, inputs, first, second, comparison.secret)
            example = await in_thread(make)
        return Compared(fields, first.code, second.code, first.ms, second.ms, example)

    async def _run(
        self, program: CataloguedProgram, inputs: bytes, session_id: str | None, timeout_s: float, version: Version
    ) -> Outcome:
        chosen = program if version is Version.V1 or program.v2 is None else program.v2
        try:
            lm = self._lms.of_call(session_id, version) if chosen.uses_lm else None
            deadline = asyncio.get_running_loop().time() + timeout_s
            call = Call(uuid.uuid4().hex, chosen, inputs, deadline, session_id, lm=lm)
            result = await self._router.execute(self._router.synthetic(version, None), call, OPERATION)
        except (CheckoutTimeout, PoolClosed, PoolOverloaded):
            raise
        except ExecutionError as error:
            return Outcome(None, error.code, 1000 * error.run_s)
        return Outcome.of_outputs(result.outputs, 1000 * result.run_s)
