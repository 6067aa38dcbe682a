"""Runs one call on an idle worker of a pool and tells how it ended; shared by shadow calls and metrics."""

import asyncio
import time
from dataclasses import dataclass

from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, ExecutionTimeout, LoadTimeout, Preempted, WorkerCrashed
from pools.protocol import Pool
from pools.quarantine import Quarantine
from poolshift.worker.lm import LMUsage
from routing.shadow.comparison import Outcome


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a run on an idle worker; `result` is None if it failed."""

    outcome: Outcome
    result: Result | None
    error: ExecutionError | None

    @property
    def usage(self) -> LMUsage | None:
        """The tokens that the run took, whatever came of it."""
        ended = self.result or self.error
        return None if ended is None else ended.usage


class IdleCalls:
    """Begins calls where workers are idle. A program that keeps costing workers is stopped for a while.

    A copy that runs out of time costs its worker too, and holds it for all that time: others would never get one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._quarantine = Quarantine()

    def admit(self, program: Program, execution_id: str) -> None:
        """Lets a program pass. Raises ProgramQuarantined if it has cost too many workers in a row under such calls."""
        self._quarantine.admit(program.quarantine_key, execution_id)

    def deadline(self, program: Program, seconds: float) -> float:
        """Returns the time of the loop at which a call of `program` that begins now must end."""
        limits = program.definition.limits
        if limits is not None and limits.timeout_s is not None:
            seconds = min(seconds, limits.timeout_s)
        return self._loop.time() + seconds

    async def end_of(self, pool: Pool, call: Call, answer: asyncio.Future[Result]) -> Ended:
        """Waits for the end of a call that has begun. A cancelled wait ends the call.

        Raises:
            Preempted: a real call needed the worker.
        """
        key, began = call.program.quarantine_key, time.perf_counter()
        try:
            result = await answer
        except asyncio.CancelledError:
            pool.end_idle(answer)
            self._quarantine.undecided(key, call.execution_id)
            raise
        except Preempted:
            self._quarantine.undecided(key, call.execution_id)
            raise
        except ExecutionError as error:
            if isinstance(error, ExecutionTimeout | LoadTimeout | WorkerCrashed):
                self._quarantine.killed(key)
            else:
                self._quarantine.undecided(key, call.execution_id)
            return Ended(Outcome(None, error.code, 1000 * (time.perf_counter() - began)), None, error)
        self._quarantine.survived(key)
        return Ended(Outcome.of_outputs(result.outputs, 1000 * result.run_s), result, None)
