"""The next engine: a worker runs many calls at once, each that can wait as a task of one event loop.

A program that is no coroutine, or that holds the event loop up, has a worker for itself, as in `SessionPoolV2`.
"""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog

from common.background import Background
from pools.calls import Call, Program, Result
from pools.engine import Engine, PoolOptions
from pools.errors import ExecutionError, WorkerCrashed
from pools.fair_queue import QueuedCall
from pools.process.interface import TryOut, WorkerSpawner
from pools.protocol import PoolObserver, RunAlone
from pools.shared_state import SharedState
from pools.state import PoolState
from pools.supervisor import Fault
from poolshift.worker.definitions import Definition

SUSPECTED: Final = "a worker died that ran it beside other calls; the next call of it that ends well clears it"
_REASONS: Final[Mapping[Fault, str]] = MappingProxyType(
    {
        "blocks": "a call of it held up the event loop of its worker, so that no other call could run",
        "ignores cancellation": "a call of it did not end when it was cancelled, which cost its worker",
    }
)
MAX_REASONS: Final = 1000
"""The programs whose reasons are kept to be shown; beyond, the oldest is forgotten."""

_log = structlog.stdlib.get_logger("poolshift.pools")


class AsyncPool(Engine):
    """A call that can run beside others goes to the worker with the fewest; any other has a worker for itself."""

    _shared: SharedState

    def __init__(
        self,
        version: str,
        options: PoolOptions,
        spawner: WorkerSpawner,
        observer: PoolObserver,
        background: Background,
    ) -> None:
        super().__init__(version, options, spawner, observer, background)
        self._supervisor.runs_badly = self._runs_badly
        self._reasons: dict[str, RunAlone] = {}
        """By quarantine key: the programs that are run alone, and why."""
        self._suspected_at: dict[str, float] = {}
        """By quarantine key: the time of `time.perf_counter` at which a worker died beside others of whose calls one
        was the program's. The program has not ended well alone since."""

    def _make_state(self, options: PoolOptions) -> PoolState:
        # As many more as there are: a worker that drains serves nobody new, and may take as long as its last call.
        self._shared = SharedState(options.size, spare=options.size, lanes=options.worker_concurrency)
        return self._shared

    def _can_begin(self) -> bool:
        state = self._shared
        if self._queue.aside.length or state.is_keeping:
            state.keep_for_others(self._loads.wanting_idle)
        return state.has_room

    @property
    def _concurrency(self) -> int:
        return max(1, self._shared.live) * self._shared.lanes

    def capacity_of(self, definition: Definition) -> int:
        """As `Pool.capacity_of`; a program that no worker has loaded yet may have to run alone."""
        return self._options.size * (self._shared.lanes if self._shared.runs_beside(definition) else 1)

    async def reload(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        await super().reload(try_out, is_forced=is_forced)
        self._forget_alone()

    async def bring_back(self) -> None:
        await super().bring_back()
        self._forget_alone()

    def _forget_alone(self) -> None:
        """Lets all programs run beside others again: they have other code."""
        self._shared.run_alone.clear()
        self._reasons.clear()
        self._suspected_at.clear()

    @property
    def _run_alone(self) -> tuple[RunAlone, ...]:
        return tuple(self._reasons.values())

    def _runs_badly(self, program: Program, fault: Fault) -> None:
        key, reason = program.quarantine_key, _REASONS[fault]
        self._suspected_at.pop(key, None)
        known = self._reasons.get(key)
        if known is None or known.reason != reason:
            self._separate(program, reason)
            _log.warning(
                "program is run alone from now on", pool_version=self.version, program_id=program.id, reason=reason
            )

    def _separate(self, program: Program, reason: str) -> None:
        """Gives each call of a program a worker for itself from now on."""
        if len(self._reasons) >= MAX_REASONS:
            self._reasons.pop(next(iter(self._reasons)))
        self._shared.run_alone[program.definition] = reason
        self._reasons[program.quarantine_key] = RunAlone(program.quarantine_key, program.id, reason)

    def _failed(self, call: Call, error: ExecutionError) -> None:
        program = call.program
        if isinstance(error, WorkerCrashed) and error.is_suspected and program.quarantine_key not in self._reasons:
            self._suspected_at[program.quarantine_key] = time.perf_counter()
            self._separate(program, SUSPECTED)
        super()._failed(call, error)

    def end(self, queued_call: QueuedCall, outcome: Result | Exception) -> None:
        if self._suspected_at and isinstance(outcome, Result):
            self._clear(queued_call.call)  # before the queue is served, in which its next calls may wait
        super().end(queued_call, outcome)

    def _clear(self, call: Call) -> None:
        """Lets a suspected program run beside others again, since a call that had its worker for itself ended well."""
        key = call.program.quarantine_key
        suspected_at = self._suspected_at.get(key)
        if suspected_at is not None and call.dispatched_at > suspected_at:
            del self._suspected_at[key]
            self._reasons.pop(key, None)
            self._shared.run_alone.pop(call.program.definition, None)
