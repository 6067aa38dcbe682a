"""The guardrails' rows for pages and metrics, computed beside the event loop: their intervals take a good while."""

import asyncio
import time

from analysis.verdict import Row
from routing.rollout.live_judge import LiveJudge


class EvidenceView:
    """Copies the evidence on the event loop, and computes the rows from the copy in a thread."""

    def __init__(self, judge: LiveJudge) -> None:
        self._judge = judge
        self._computing = asyncio.Lock()
        self._rows: tuple[Row, ...] = ()
        self._as_of = float("-inf")

    async def rows(self, *, max_age_s: float = 0.0) -> tuple[Row, ...]:
        """A row for each guardrail, on the calls of all replicas, as of at most `max_age_s` seconds ago.

        Callers that ask at the same moment share one computation.
        """
        wanted = time.monotonic() - max_age_s
        if self._as_of < wanted:
            async with self._computing:
                if self._as_of < wanted:
                    as_of, compute = time.monotonic(), self._judge.analysis_of_now()
                    self._rows = await asyncio.to_thread(compute)
                    self._as_of = as_of
        return self._rows
