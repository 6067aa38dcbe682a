"""Fakes of a pool's interfaces for fast tests: real implementations, whose every turn the test decides.

`FakePool` stands behind the router. A test reads which calls wait and which run, and ends each by hand.
`FakeSpawner` stands behind an engine or a supervisor. It makes a `FakeProcess` for each start.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence

import msgspec

from pools.calls import Call, OnOutcome, Program, Result
from pools.errors import (
    ExecutionError,
    LoadTimeout,
    NoPreviousCode,
    PoolClosed,
    Preempted,
    SpawnFailed,
    Withdrawn,
    WorkerLost,
)
from pools.events import EventSource
from pools.process.exits import Exit, ExitCause, failure_of
from pools.process.interface import LoadOrder, TryOut, Worker
from pools.process.stats import ProcessStats
from pools.protocol import PoolSnapshot
from poolshift.worker.definitions import Definition, Field, Limits, Signature
from poolshift.worker.describe import Description
from poolshift.worker.messages import EventKind

Answer = Result | ExecutionError
"""The end of a call."""


def echo_program(name: str = "echo", *, idempotent: bool = False, limits: Limits | None = None) -> Program:
    """A program with one string in and out, which no worker is needed for."""
    text = Field("text", "string")
    definition = Definition("python", Signature((text,), (text,)), "fake:echo", idempotent=idempotent, limits=limits)
    return Program(f"key of {name}", name, definition)


def result(text: str = "done", run_s: float = 0.0) -> Result:
    """The result of a call of `echo_program`."""
    return Result(msgspec.Raw(msgspec.json.encode({"text": text})), run_s)


class FakePool:
    """A pool (see `pools.protocol.Pool`) without workers.

    Without `answer`, an accepted call is in `queued` until the test calls `dispatch`, and then in `running` until the
    test calls `finish`. With `answer`, each call is dispatched at once and ends as `answer(call)` says.
    """

    def __init__(self, version: str, answer: Callable[[Call], Answer] | None = None) -> None:
        self.version = version
        self.answer = answer
        self.queued: list[Call] = []
        self.running: list[Call] = []
        self.accepted: list[Call] = []
        """Every call ever accepted, in order; a call that comes twice is in it twice."""
        self.is_ready = True
        self.is_down = False
        self.is_warm = True
        self.fault: str | None = None
        self.is_refusing = False
        self.is_closed = False
        self.dispatched = 0
        self.reloads = 0
        self.idle_answer: Callable[[Call], Answer | Preempted | None] | None = None
        """The end of calls of `begin_idle`; an answer of None lets the call run until `end_idle`."""
        self.idle_calls: list[tuple[Call, int | None]] = []
        self._outcomes: dict[Call, OnOutcome] = {}
        self._drained = asyncio.Event()
        self._drained.set()
        self._on_down: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<FakePool {self.version} queued={len(self.queued)} running={len(self.running)}>"

    # --- for the test

    def dispatch(self, call: Call) -> None:
        """Gives a queued call to a worker."""
        self.queued.remove(call)
        self.running.append(call)
        self.dispatched += 1
        call.dispatched_at = time.perf_counter()

    def finish(self, call: Call, outcome: Answer | Withdrawn) -> None:
        """Ends a queued or running call; nothing happens if it has ended or was abandoned. Errors are told later."""
        if isinstance(outcome, Result):
            self._tell(call, outcome)
        else:
            asyncio.get_running_loop().call_soon(self._tell, call, outcome)

    def go_down(self) -> None:
        """Loses all workers, and cannot start one."""
        self.is_ready, self.is_down = False, True
        if self.queued and self._on_down is not None:
            self._on_down()

    # --- the protocol

    @property
    def warm_workers(self) -> int:
        return int(self.is_ready and self.is_warm)

    def is_warm_for(self, share: float) -> bool:
        return share <= 0 or self.warm_workers > 0

    def capacity_of(self, definition: Definition) -> int:
        """One call at once."""
        return 1

    async def warmed(self, share: float) -> bool:
        """Tells at once if the pool is warm."""
        return self.is_warm_for(share)

    def when_down(self, listener: Callable[[], None]) -> None:
        self._on_down = listener

    async def start(self) -> None:
        """Does nothing: there are no workers."""

    def begin(self, call: Call, on_outcome: OnOutcome) -> None:
        if self.is_closed or (self.is_refusing and not call.is_accepted):
            raise PoolClosed
        call.is_accepted = True
        self.accepted.append(call)
        self.queued.append(call)
        self._outcomes[call] = on_outcome
        self._drained.clear()
        if self.answer is not None:
            self.dispatch(call)
            self.finish(call, self.answer(call))

    def abandon(self, call: Call) -> None:
        if call in self._outcomes:
            self._forget(call)

    def failed(self, call: Call, error: ExecutionError) -> None:
        """Draws no conclusions."""

    def begin_idle(self, call: Call, avoid_pid: int | None = None) -> asyncio.Future[Result] | None:
        """Runs the call if `idle_answer` is set; the call is then in `idle_calls`."""
        if self.idle_answer is None:
            return None
        self.idle_calls.append((call, avoid_pid))
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        answer = self.idle_answer(call)
        if isinstance(answer, Result):
            future.set_result(answer)
        elif answer is not None:
            future.set_exception(answer)
        return future

    def end_idle(self, answer: asyncio.Future[Result]) -> None:
        if not answer.done():
            answer.set_exception(Preempted())

    def withdraw(self, which: Callable[[Call], bool]) -> int:
        return self._withdraw(self.queued, which)

    def withdraw_running(self, which: Callable[[Call], bool]) -> int:
        return self._withdraw(self.running, which)

    async def snapshot(self) -> PoolSnapshot:
        return PoolSnapshot(
            version=self.version,
            size=1,
            busy=len(self.running),
            idle=int(self.is_ready and not self.running),
            starting=0,
            stopping=0,
            queue_depth=len(self.queued),
            utilization=float(bool(self.running)),
            dispatched_total=self.dispatched,
            worker_starts_total=1,
            worker_exits_total=dict.fromkeys(ExitCause, 0),
            service_time_s=0.0,
            cpu_seconds_total=0.0,
            programs_revision=f"code {self.reloads}",
            workers=(),
            warm=self.warm_workers,
        )

    async def reload(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        self.reloads += 1

    async def bring_back(self) -> None:
        """Keeps no code: no reload brings any."""
        raise NoPreviousCode

    def refuse(self) -> None:
        self.is_refusing = True

    @property
    def is_drained(self) -> bool:
        return not self._outcomes

    async def drain(self) -> None:
        await self._drained.wait()

    async def aclose(self) -> None:
        self.is_refusing = self.is_closed = True
        self.is_ready = False
        for call in list(self._outcomes):
            self.finish(call, PoolClosed(started=call in self.running))
        await self.drain()

    def _withdraw(self, calls: list[Call], which: Callable[[Call], bool]) -> int:
        withdrawn = [call for call in calls if which(call)]
        for call in withdrawn:
            self.finish(call, Withdrawn())
        return len(withdrawn)

    def _tell(self, call: Call, outcome: Answer | Withdrawn) -> None:
        on_outcome = self._outcomes.get(call)
        if on_outcome is not None:
            self._forget(call)
            on_outcome(outcome)

    def _forget(self, call: Call) -> None:
        for calls in (self.queued, self.running):
            if call in calls:
                calls.remove(call)
        del self._outcomes[call]
        if not self._outcomes:
            self._drained.set()


class FakeSource:
    """The source of the events of one call (see `pools.events.EventSource`)."""

    def __init__(self) -> None:
        self.is_paused = False

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False


class FakeProcess:
    """A worker (see `pools.process.interface.Worker`) without a process.

    A call runs until the test ends it by `answer` or `die`. A worker that is told to end dies in the next turn of the
    event loop, unless it `hangs`: then the test decides when.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started_at = time.time()
        self.revision = "code 0"
        self.call: Call | None = None
        self.sent: list[Call] = []
        """Every call that was ever sent, in order."""
        self.hangs = False
        self.is_lost = False
        """Dead, but nobody has noticed yet: the next call raises WorkerLost."""
        self.ended_for: ExitCause | None = None
        self.kill_reason: str | None = None
        self.source = FakeSource()
        self.figures: ProcessStats | None = None
        """The figures that a measurement of the worker finds."""
        self.node: str | None = None
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._on_end: Callable[[Result | Exception], None] | None = None
        self._when_ended: Callable[[Exit], None] | None = None
        self.left_by: Program | None = None
        self._when_left: Callable[[], None] | None = None
        self._when_due_changes: Callable[[], None] | None = None
        self._load_due: float | None = None
        self.lacks: set[Definition] = set()
        """The definitions that the worker has not loaded; it has all others."""
        self.loading: Program | None = None
        self.loads: list[tuple[Program, LoadOrder]] = []
        """Every load that was ever asked for, in order."""
        self._on_loaded: Callable[[ExecutionError | None], None] | None = None

    def __repr__(self) -> str:
        return f"<FakeProcess pid={self.pid} call={self.call} ended_for={self.ended_for}>"

    # --- for the test

    def answer(self, outcome: Result | ExecutionError) -> None:
        """Ends the running call; a worker that is being ended is not heard any more."""
        if self.ended_for is None:
            self._end_run(outcome)

    def begin_load(self, due: float) -> None:
        """Lets the running call wait for its program, which must be loaded by `due`, a time of the loop."""
        self._load_due = due
        self._tell_due()

    def loaded(self, seconds: float) -> None:
        """Ends the loading, which took so long."""
        assert self.call is not None
        self._load_due = None
        self.call.deadline += seconds
        self._tell_due()

    def end_load(self, failure: ExecutionError | None = None) -> None:
        """Ends the load without a call: well, or by `failure`."""
        program, on_loaded = self.loading, self._on_loaded
        assert program is not None
        assert on_loaded is not None
        self.loading = self._on_loaded = self._load_due = None
        if failure is None:
            self.lacks.discard(program.definition)
        on_loaded(failure)

    def _tell_due(self) -> None:
        if self._when_due_changes is not None:
            self._when_due_changes()

    def emit(self, data: object) -> None:
        """Sends an event of the running call."""
        assert self.call is not None
        assert self.call.events is not None
        self.call.events.put("progress", msgspec.Raw(msgspec.json.encode(data)))

    def leave(self, program: Program) -> None:
        """Says that a call of `program` has left something in the worker: the running call, or one before it."""
        self.left_by = program
        if self._when_left is not None:
            self._when_left()

    def die(self, cause: ExitCause = ExitCause.CRASH, *, is_ours: bool = False) -> None:
        """Ends the worker now: for `cause`, unless it was told to end for another."""
        if self.exited.done():
            return
        end = Exit(self.ended_for or cause, "as the test has it", cpu_s=1.0, is_ours=is_ours)
        self.exited.set_result(end)
        if self._when_ended is not None:
            self._when_ended(end)
        failure = failure_of(end, None if self.left_by is None else self.left_by.quarantine_key)
        if self.loading is not None:
            self.end_load(LoadTimeout("killed") if end.cause is ExitCause.TIMEOUT else failure)
        self._end_run(failure)

    # --- the protocol

    @property
    def calls(self) -> list[Call]:
        return [] if self.call is None else [self.call]

    def run(self, call: Call, on_end: Callable[[Result | Exception], None]) -> float:
        if self.is_lost or self.ended_for is not None or self.exited.done():
            raise WorkerLost
        assert self.call is None
        self.call = call
        self.sent.append(call)
        self._on_end = on_end
        if call.events is not None:
            call.events.began(self.source)
        return call.deadline

    def has_loaded(self, definition: Definition) -> bool:
        return definition not in self.lacks

    def is_concurrent(self, definition: Definition) -> bool:
        """False: a call has the worker for itself."""
        return False

    def load(self, program: Program, order: LoadOrder, on_end: Callable[[ExecutionError | None], None]) -> None:
        if self.is_lost or self.ended_for is not None or self.exited.done():
            raise WorkerLost
        assert self.call is None
        assert self.loading is None
        self.loading, self._on_loaded = program, on_end
        self.loads.append((program, order))
        if order.limit_s is not None:
            self._load_due = self._loop.time() + order.limit_s

    @property
    def due(self) -> float:
        if self._load_due is not None:
            return self._load_due
        return math.inf if self.call is None else self.call.deadline

    def overdue(self, now: float) -> list[Call]:
        return self.calls if self.due <= now else []

    def cancel(self, call: Call, cause: ExitCause) -> None:
        """Does nothing: a call that has the worker for itself cannot be cancelled."""

    def ignores_cancellation(self, call: Call) -> bool:
        """False: none can be cancelled."""
        return False

    @property
    def load_due(self) -> float:
        return math.inf if self.loading is None or self._load_due is None else self._load_due

    def withdraw(self, call: Call) -> None:
        if self.call is call:
            self._end_run(Withdrawn())

    def kill(self, cause: ExitCause, reason: str | None = None) -> None:
        self.kill_reason = self.kill_reason or reason
        if self.ended_for in (None, ExitCause.RECYCLED, ExitCause.SHUTDOWN):
            self._end_for(self.ended_for or cause)

    def retire(self, cause: ExitCause) -> None:
        if self.ended_for is None:
            self._end_for(cause)

    def when_ended(self, listener: Callable[[Exit], None]) -> None:
        if self.exited.done():
            listener(self.exited.result())
        else:
            self._when_ended = listener

    def when_left(self, listener: Callable[[], None]) -> None:
        self._when_left = listener

    def when_blocked(self, listener: Callable[[Program | None, float, bool], None]) -> None:
        """Does nothing: a call that has the worker for itself blocks no other."""

    def when_due_changes(self, listener: Callable[[], None]) -> None:
        self._when_due_changes = listener

    def stats(self) -> ProcessStats | None:
        return self.figures

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        listener(0 if self.figures is None else self.figures.rss_bytes)

    def log_ids(self) -> dict[str, str | None]:
        return self.call.log_ids() if self.call is not None else {"execution_id": None}

    def _end_for(self, cause: ExitCause) -> None:
        self.ended_for = cause
        if not self.hangs:
            self._loop.call_soon(self.die)

    def _end_run(self, outcome: Result | Exception) -> None:
        on_end, self.call, self._on_end = self._on_end, None, None
        if on_end is not None:
            on_end(outcome)


class FakeSpawner:
    """A spawner (see `pools.process.interface.WorkerSpawner`) of `FakeProcess`."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        """Every worker ever started, in order."""
        self.failures: list[BaseException] = []
        """Raised by the next starts, one each."""
        self.is_failing = False
        """Every start fails."""
        self.attempts = 0
        self.renewals = 0
        self.revision: str = "code 0"
        self.previous_revision: str | None = None
        self.renewal_failure: SpawnFailed | None = None
        self.cold_for: set[Definition] = set()
        """The definitions that workers which are started lack."""
        self.places: int | None = None
        self.start_failure: str | None = None
        self._on_places: Callable[[], None] | None = None
        self._pids = itertools.count(1000)
        self._gate = asyncio.Event()
        self._gate.set()

    @property
    def living(self) -> list[FakeProcess]:
        """The workers that are not dead."""
        return [process for process in self.processes if not process.exited.done()]

    def hold(self) -> None:
        """Lets starts wait until `let_go`."""
        self._gate.clear()

    def let_go(self) -> None:
        """Ends the wait of starts."""
        self._gate.set()

    def give_places(self, places: int | None, start_failure: str | None = None) -> None:
        """Changes the room that there is for workers, and the reason for which none can start."""
        self.places, self.start_failure = places, start_failure
        if self._on_places is not None:
            self._on_places()

    def watch_places(self, listener: Callable[[], None]) -> None:
        self._on_places = listener

    async def measure(self, workers: Sequence[Worker]) -> list[ProcessStats | None]:
        return [worker.stats() for worker in workers]

    async def describe(self) -> Description:
        return Description("3.11.7", "python", "x86_64", {})

    async def spawn(self) -> FakeProcess:
        self.attempts += 1
        await self._gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.is_failing:
            raise SpawnFailed("as the test has it")
        process = FakeProcess(next(self._pids))
        process.lacks = set(self.cold_for)
        self.processes.append(process)
        return process

    async def check(self, definition: Definition) -> Signature | None:
        """Finds nothing wrong, and derives nothing."""
        return None

    async def load(self, definition: Definition) -> None:
        """Loads everything."""

    @property
    def commit(self) -> None:
        """No code is of no commit."""
        return None

    def watch_code(self, on_new_code: Callable[[], None]) -> None:
        """Does nothing: there is no code."""

    async def renew(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        if self.renewal_failure is not None:
            raise self.renewal_failure
        self.renewals += 1
        self.revision, self.previous_revision = f"code {self.renewals}", self.revision

    async def bring_back(self) -> None:
        if self.previous_revision is None:
            raise NoPreviousCode
        self.revision, self.previous_revision = self.previous_revision, self.revision

    async def aclose(self) -> None:
        for process in self.living:
            process.kill(ExitCause.SHUTDOWN)


class FakeObserver:
    """Counts what happens to workers (see `pools.protocol.PoolObserver`)."""

    def __init__(self) -> None:
        self.started = 0
        self.exits: list[ExitCause] = []
        self.blocked: list[float] = []

    def worker_started(self, version: str, seconds: float) -> None:
        self.started += 1

    def loop_blocked(self, version: str, seconds: float) -> None:
        self.blocked.append(seconds)

    def worker_exited(self, version: str, cause: ExitCause) -> None:
        self.exits.append(cause)


class FakeSink:
    """Takes the events of a call (see `pools.events.EventSink`); `source` is what holds its worker up."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.source: EventSource | None = None

    @property
    def has_taken(self) -> bool:
        return bool(self.events)

    def began(self, source: EventSource) -> None:
        self.source = source

    def put(self, kind: EventKind, data: msgspec.Raw) -> None:
        self.events.append(msgspec.json.decode(data))
