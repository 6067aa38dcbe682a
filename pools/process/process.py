"""The service's side of a worker process: its calls, from request to reply, its loads and its end."""

import asyncio
import math
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from common.log_levels import named_level
from pools.calls import Call, Program, Result
from pools.errors import (
    CodeOutdated,
    ExecutionError,
    InvalidInputs,
    InvalidOutputs,
    LoadFailed,
    LoadTimeout,
    Withdrawn,
    WorkerCrashed,
    WorkerFull,
    WorkerLost,
)
from pools.events import FlowControl
from pools.process.channel import Channel
from pools.process.ends import WorkerEnds, close_all
from pools.process.exits import Exit, ExitCause, failure_beside_others, failure_of
from pools.process.handle import ProcessHandle
from pools.process.interface import LoadOrder
from pools.process.json_check import MAX_SCANNED_BYTES, check_json
from pools.process.loads import RunningLoad, load_request
from pools.process.output import OutputReader
from pools.process.replies import decode_reply, error_of
from pools.process.running_call import RunningCall
from pools.process.stats import ProcessStats
from pools.process.told_definitions import Told, ToldDefinitions
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.exception_text import truncate
from poolshift.worker.framing import MALFORMED, MAX_COPIED_BYTES, FrameError, frame_of_two, start_of_two
from poolshift.worker.lm import lm_budget_s
from poolshift.worker.loading import EntrypointError
from poolshift.worker.messages import (
    CODE_OUTDATED,
    Blocked,
    Cancel,
    Check,
    Checked,
    Done,
    Failed,
    Left,
    Loaded,
    Progress,
    Ready,
    Reply,
    Run,
)
from poolshift.worker.stdio import Record

KILL_GRACE_S = 0.2
"""Time from SIGTERM to SIGKILL, in which a program that handles SIGTERM can clean up."""
REPORT_GRACE_S = 1.0
"""Time from a worker's death to the zygote's report, which has the exit status."""
RETIRE_GRACE_S = 2.0
"""Time from closing the pipes to SIGTERM. An idle worker exits by itself in less."""
MAX_NAMED_CALLS = 16
"""Limit of the calls that a log line about a worker names."""
MAX_LEFT = 8
MAX_LEFT_LENGTH = 64
"""Limits of the log line about an unfit worker: the number of its leftovers, and the characters of each."""

_encode: Final = msgspec.json.Encoder().encode
_log = structlog.stdlib.get_logger("poolshift.worker")


class WorkerProcess:
    """One worker. `ready` is done when it can run a call, `exited` when it is dead."""

    def __init__(
        self,
        generation: int,
        ends: WorkerEnds,
        load_timeout_s: float,
        when_loaded: Callable[[Definition], None],
    ) -> None:
        """Takes over `ends`, and closes them if it raises.

        A program has `load_timeout_s` seconds to load. `when_loaded` is called with each definition that has.
        """
        self._loop = asyncio.get_running_loop()
        self.generation = generation
        self.pid = 0
        self.is_forked = False
        """True once the process has existed, with a descriptor to signal it through."""
        self.started_at = time.time()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self.ended_for: ExitCause | None = None
        self.kill_reason: str | None = None
        self.fault: str | None = None
        self._handle: ProcessHandle | None = None
        self.revision = ""
        """The revision of the programs' code that the worker has."""
        self._is_up = False
        self._definitions = ToldDefinitions()
        self._load_timeout_s = load_timeout_s
        self._note_loaded = when_loaded
        self._load: RunningLoad | None = None
        """The load that runs without a call."""
        self._when_due_changes: Callable[[], None] | None = None
        self._running: dict[str, RunningCall] = {}
        """By execution id: the calls that it has, one at most unless it runs many at once."""
        self._is_mixed = False
        """Set while calls run beside each other, until the worker has none: what they leave is of no one of them."""
        self._was_mixed = False
        """The same at the end of the last call."""
        self._is_blocked = False
        """Set while one call lets no other run."""
        self._when_ended: Callable[[Exit], None] | None = None
        self.left_by: Program | None = None
        """The program whose call has made the worker unfit for other programs."""
        self._blamed: str | None = None
        """The quarantine key of that program, if it was surely no other's call."""
        self._when_blocked: Callable[[Program | None, float, bool], None] | None = None
        self._when_left: Callable[[], None] | None = None
        self._ended_id = ""
        self._ended_program: Program | None = None
        self._check: asyncio.Future[Signature | None] | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._report_timer: asyncio.TimerHandle | None = None
        self._open_ends = 2
        """The number of the worker's streams, replies and output, that have not ended."""
        self._when_silent: Callable[[], None] | None = None
        """Set while another process talks with the worker."""
        self._open(ends)

    def _open(self, ends: WorkerEnds) -> None:
        try:
            self._output = OutputReader(ends.output, self._log_record, self._log_left_out, self._end_fell_silent)
        except BaseException:
            close_all({ends.requests, ends.replies})
            raise
        try:
            self._channel = Channel(ends.replies, ends.requests, self._take, self._channel_ended)
        except BaseException:
            self._output.close()
            raise

    def __repr__(self) -> str:
        calls = len(self._running)
        return f"<WorkerProcess generation={self.generation} pid={self.pid} calls={calls} ended_for={self.ended_for}>"

    # --- calls and checks

    def run(self, call: Call, on_end: Callable[[Result | Exception], None]) -> float:
        """Sends the call to the worker. Calls `on_end` once, with the result or one of `pools.errors`.

        Returns the time of the loop by which it must end. The worker is idle, or runs nothing but calls that can run
        beside this one.

        Raises:
            InvalidInputs: the inputs are over the frame's limit; nothing was sent.
            WorkerLost: the worker is dead; nothing was sent.
        """
        definition = call.program.definition
        told, new = self._definitions.find(definition), None
        if told is None:
            told, new = self._definitions.new(definition), definition
        running = RunningCall(call, on_end, is_beside=told.is_concurrent)
        if not told.is_loaded:
            running.load_began = time.perf_counter()  # the worker may begin before the message's last byte is sent
        try:
            is_sent = self._send_run(call, told, new)
        except FrameError as error:
            raise InvalidInputs(f"inputs: {error}") from None
        if not is_sent:
            raise WorkerLost
        if new is not None:
            self._definitions.add(new, told)
        call.is_loading = not told.is_loaded
        if call.is_loading:
            call.is_cold = True
            running.load_due = self._loop.time() + self._load_timeout_s
        self._is_mixed = self._is_mixed or bool(self._running)
        self._running[call.execution_id] = running
        if call.events is not None:
            running.flow_control = FlowControl(self._channel, call.execution_id if running.is_beside else None)
            call.events.began(running.flow_control)
        return running.due

    def _send_run(self, call: Call, told: Told, new: Definition | None) -> bool:
        inputs, is_small = call.inputs, len(call.inputs) <= MAX_COPIED_BYTES
        if is_small and new is None and call.has_nothing_beside_inputs:
            return self._channel.send(told.run_frame(call.program.id, call.execution_id, inputs))
        message = _encode(
            Run(
                id=call.execution_id,
                program_id=call.program.id,
                number=told.number,
                definition=new,
                traceparent=call.traceparent if call.trace is None else call.trace.run_begins(self.pid),
                carried=call.carried,
                record=call.trace is not None,
                stream=call.events is not None,
                lm=call.lm,
                lm_budget_s=0.0 if call.lm is None else lm_budget_s(call.deadline - self._loop.time()),
            )
        )
        if is_small:
            return self._channel.send(frame_of_two(message, inputs))
        return self._channel.send(start_of_two(message, len(inputs)), memoryview(inputs))

    @property
    def due(self) -> float:
        """The time of the loop by which the first of its calls must end, or a program must have loaded."""
        return min([self.load_due, *(running.due for running in self._running.values())])

    @property
    def load_due(self) -> float:
        """The time of the loop by which the program must have loaded that it loads without a call."""
        return math.inf if self._load is None else self._load.due

    @property
    def calls(self) -> list[Call]:
        """The calls that it runs, the oldest first."""
        return [running.call for running in self._running.values()]

    def overdue(self, now: float) -> list[Call]:
        """The calls that should have ended by `now`, a time of the loop."""
        return [running.call for running in self._running.values() if running.due <= now]

    @property
    def loading(self) -> Program | None:
        """The program that the worker loads without a call at the moment."""
        return None if self._load is None else self._load.program

    def has_loaded(self, definition: Definition) -> bool:
        """Tells if a call of this definition runs at once, since the worker has loaded it."""
        told = self._definitions.find(definition)
        return told is not None and told.is_loaded

    def is_concurrent(self, definition: Definition) -> bool:
        """Tells if calls of this definition, which the worker has loaded, can run beside others on it."""
        told = self._definitions.find(definition)
        return told is not None and told.is_concurrent

    def load(self, program: Program, order: LoadOrder, on_end: Callable[[ExecutionError | None], None]) -> None:
        """Has the idle worker load a program without running it (see `pools.process.interface.Worker.load`).

        Raises:
            LoadFailed: the definition cannot be sent.
            WorkerFull: the worker would have to drop others for it, and no call waits for it, or others run.
            WorkerLost: the worker is dead.
        """
        told = self._definitions.find(program.definition)
        is_new = told is None
        told = told or self._definitions.new(program.definition)
        drops_others = is_new and told.number == 0 and len(self._definitions) > 0
        if drops_others and (order.execution_id is None or self._running):
            raise WorkerFull
        load = RunningLoad(program, order, min(self._load_timeout_s, order.limit_s or math.inf), on_end)
        try:
            is_sent = self._channel.send(load_request(load, told.number, is_new=is_new))
        except FrameError as error:
            raise LoadFailed(f"the definition cannot be sent: {error}") from None
        if not is_sent:
            raise WorkerLost
        if is_new:
            self._definitions.add(program.definition, told)
        self._load = load

    def check(self, definition: Definition, *, as_called: bool = False) -> asyncio.Future[Signature | None]:
        """Asks the worker to load `definition`, as its first call would if `as_called`.

        The future ends with the derived signature, if there is one, or with EntrypointError or WorkerCrashed.
        """
        self._check = self._loop.create_future()
        request = Check(id="check", definition=definition, as_called=as_called)
        self._channel.send(frame_of_two(_encode(request), b""))
        return self._check

    def cancel(self, call: Call, cause: ExitCause) -> float | None:
        """Asks the worker to end one of many calls; its end is told once the program runs no more.

        Returns the time of the loop by which it must have ended. None if nothing but the worker's death can end it:
        it has the worker for itself, or was cancelled before. A worker that loads a program hears nothing meanwhile.
        """
        running = self._running.get(call.execution_id)
        if running is None or not running.is_beside:
            return None
        if running.cancelled_for is not None:
            return None if self._load is None else running.cancel(running.cancelled_for)
        if not self._channel.send(frame_of_two(_encode(Cancel(call.execution_id)), b"")):
            return None
        return running.cancel(cause)

    def ignores_cancellation(self, call: Call) -> bool:
        """Tells if a call that runs was asked to end, and has not although it could: no other blocks the worker."""
        running = self._running.get(call.execution_id)
        return running is not None and running.cancelled_for is not None and not self._is_blocked

    def withdraw(self, call: Call) -> None:
        """Ends a call with Withdrawn, and drops every later reply to it. The caller cancels it, or kills the worker."""
        running = self._running.get(call.execution_id)
        if running is not None:
            running.end(Withdrawn(), ())

    # --- its end

    def kill(self, cause: ExitCause, reason: str | None = None) -> None:
        """Sends SIGTERM, and SIGKILL after `KILL_GRACE_S`. `exited` is done when the process is dead."""
        if self.exited.done() or self.ended_for not in (None, ExitCause.RECYCLED, ExitCause.SHUTDOWN):
            return
        self.kill_reason = reason
        self.ended_for = self.ended_for or cause
        self._signal(signal.SIGTERM)
        self._arm(KILL_GRACE_S, lambda: self._signal(signal.SIGKILL))

    def retire(self, cause: ExitCause) -> None:
        """Lets an idle worker exit by itself, and kills it after `RETIRE_GRACE_S`."""
        if self.exited.done() or self.ended_for is not None:
            return
        self.ended_for = cause
        self._channel.close()
        self._arm(RETIRE_GRACE_S, lambda: self.kill(cause))

    def when_ended(self, listener: Callable[[Exit], None]) -> None:
        """Calls `listener` once the process is dead and reaped, before its call is answered; at once if it is dead."""
        if self.exited.done():
            listener(self.exited.result())
        else:
            self._when_ended = listener

    def when_left(self, listener: Callable[[], None]) -> None:
        """Calls `listener` if the worker reports that a call has made it unfit for others."""
        self._when_left = listener

    def when_blocked(self, listener: Callable[[Program | None, float, bool], None]) -> None:
        """Calls `listener` if a call lets no other run beside it (see `pools.process.interface.Worker`)."""
        self._when_blocked = listener

    def when_due_changes(self, listener: Callable[[], None]) -> None:
        """Calls `listener` when the program of its call is loaded, and its deadline counts from then on."""
        self._when_due_changes = listener

    def log_ids(self) -> dict[str, str | None]:
        """Returns the ids of the running call, if any, for a log line about the worker; of several, those of all."""
        if self._load is not None:
            return self._load.log_ids()
        calls = self.calls
        if len(calls) == 1:
            return calls[0].log_ids()
        if not calls:
            return {"execution_id": None}
        return {"execution_ids": " ".join(call.execution_id for call in calls[:MAX_NAMED_CALLS])}

    # --- for the spawner

    def forked(self, pid: int, handle: ProcessHandle, on_unreported: Callable[[], None]) -> None:
        """Takes over the process that the zygote has forked.

        If the handle cannot tell of the process's death, the process is killed. `on_unreported` is called if the
        process dies and `ended` does not follow within `REPORT_GRACE_S`.
        """
        self.pid, self._handle = pid, handle
        if handle.fault is not None:
            self.fault = handle.fault
            self.kill(ExitCause.CRASH)
            return
        self.is_forked = True
        try:
            handle.watch(lambda: self._died(on_unreported))
        except OSError as error:
            _log.warning("worker's death will be noticed by its zygote alone", pid=pid, reason=str(error))
        if self.ended_for is not None:
            self._signal(signal.SIGKILL)
        self._become_ready()

    @property
    def node(self) -> str | None:
        """The node of a cluster that the worker is on; None is this machine."""
        return None if self._handle is None else self._handle.node

    def stats(self) -> ProcessStats | None:
        """Measures the worker now, or as its node has last measured it; None if that is not known."""
        return None if self._handle is None else self._handle.stats()

    def ask_memory(self, listener: Callable[[int], None]) -> None:
        """Calls `listener` with the resident memory in bytes, 0 if it is not known: at once, or when a node answers."""
        if self._handle is None:
            listener(0)
        else:
            self._handle.ask_memory(listener)

    def when_silent(self, action: Callable[[], None]) -> None:
        """Calls `action` once the worker's replies and its output have ended, at once if they have."""
        if self._open_ends:
            self._when_silent = action
        else:
            action()

    def ended(self, end: Exit) -> None:
        """Notes that the process is dead, and ends everything that waits for it."""
        if self.exited.done():
            return
        if self.ended_for is None:
            self._attempt(self._channel.drain)
        self._attempt(self._channel.close)
        self._attempt(self._output.close)
        self._attempt(self._forget_process)
        if not self.ready.done():
            fault = f"the worker died at its start: {end.description}"
            self.ready.set_exception(WorkerCrashed(fault, exit_cause=end.description))
            self.ready.exception()  # retrieved, since its caller may have given up
        if self._check is not None and not self._check.done():
            self._check.set_exception(WorkerCrashed(f"the worker died: {end.description}", exit_cause=end.description))
            self._check.exception()
        self.exited.set_result(end)
        # The exit comes first: a caller that gets the answer finds the worker gone.
        try:
            if self._when_ended is not None:
                self._when_ended(end)
        finally:
            self._end_all(end)

    def _end_all(self, end: Exit) -> None:
        """Ends the load and each call of a worker that is dead."""
        load, calls = self._load, list(self._running.values())
        works = len(calls) + (load is not None)
        if load is not None:
            is_over_time = end.cause is ExitCause.TIMEOUT
            self._end_load_ahead(load.timed_out() if is_over_time else failure_of(end, self._blamed))
        for running in calls:
            try:
                self._end_run(running, self._failure_of(running, end, works), ())
            except Exception:
                _log.exception("a call of a dead worker could not be ended", **running.call.log_ids())

    def _failure_of(self, running: RunningCall, end: Exit, works: int) -> ExecutionError:
        if end.cause is ExitCause.TIMEOUT and running.load_due is not None:
            return LoadTimeout(f"the program did not load within {self._load_timeout_s:g} s; its worker was killed")
        if works > 1 and running.cancelled_for is None:
            return failure_beside_others(end, works)
        return failure_of(end, self._blamed)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Takes one step of the end, and logs its failure, so that the other steps follow."""
        try:
            action()
        except Exception:
            _log.exception("worker's end is incomplete", pid=self.pid)

    def _died(self, on_unreported: Callable[[], None]) -> None:
        self._report_timer = self._loop.call_later(REPORT_GRACE_S, on_unreported)

    def _forget_process(self) -> None:
        for timer in (self._kill_timer, self._report_timer):
            if timer is not None:
                timer.cancel()
        if self._handle is not None:
            self._handle.close()

    # --- its replies

    def _take(self, payload: bytes | memoryview) -> None:
        if self.ended_for is not None:
            return  # too late
        try:
            reply, body = decode_reply(payload)
        except (FrameError, *MALFORMED) as error:
            self._violated(f"not a reply: {error}")
            return
        if reply.gen != self.generation:
            self._violated(f"a reply of generation {reply.gen}")
        elif isinstance(reply, Done) and (running := self._running.get(reply.id)) is not None:
            self._take_done(reply, body, running)
        else:
            self._take_other(reply, body)

    def _take_other(self, reply: Reply, body: msgspec.Raw) -> None:
        """Takes any reply but the usual one, the outputs of a running call."""
        if isinstance(reply, (Ready, Left)):
            self._take_notice(reply)
        elif self._check is not None or isinstance(reply, Checked):
            self._take_check(reply)
        elif self._load is not None and reply.id == self._load.id:
            self._take_load(reply, self._load)
        elif isinstance(reply, Blocked):
            self._take_blocked(reply)
        elif (running := self._running.get(reply.id)) is None or isinstance(reply, Done):
            self._violated(f"a reply to {reply.id!r}, which it is not at")
        else:
            self._take_of_call(reply, body, running)

    def _take_done(self, done: Done, outputs: msgspec.Raw, running: RunningCall) -> None:
        if running.is_scanning:
            self._violated("a reply behind its outputs")
        elif len(outputs) > MAX_SCANNED_BYTES:
            self._scan_outputs(done, outputs, running)
        else:
            self._end_run(running, Result(outputs, done.run_us / 1e6, done.usage), done.spans)

    def _take_of_call(self, reply: Loaded | Progress | Failed, body: msgspec.Raw, running: RunningCall) -> None:
        if running.is_scanning:
            self._violated("a reply behind its outputs")
        elif isinstance(reply, Progress):
            if running.call.events is not None and running.cancelled_for is None:
                running.call.events.put(reply.kind, body)
        elif isinstance(reply, Loaded):
            self._take_loaded(running, is_concurrent=reply.is_concurrent)
        else:
            self._end_run(running, self._error_of(reply, running.call), reply.spans)

    def _take_blocked(self, blocked: Blocked) -> None:
        self._is_blocked = not blocked.is_over
        running = self._running.get(blocked.id)  # it may have ended before the end of that is told
        if self._when_blocked is not None:
            self._when_blocked(None if running is None else running.call.program, blocked.seconds, blocked.is_over)

    def _scan_outputs(self, done: Done, outputs: msgspec.Raw, running: RunningCall) -> None:
        """Ends the call once a thread has seen that its large outputs are JSON."""

        def scanned(is_valid: bool) -> None:  # noqa: FBT001  # the answer that `check_json` gives
            if self._running.get(running.call.execution_id) is not running:
                return  # ended meanwhile, by its deadline or by the worker's death
            if is_valid:
                self._end_run(running, Result(outputs, done.run_us / 1e6, done.usage), done.spans)
            else:
                self._violated("outputs that are not JSON")

        running.is_scanning = True
        check_json(memoryview(outputs), self._loop, scanned)

    def _take_notice(self, notice: Ready | Left) -> None:
        if isinstance(notice, Left):
            self._take_left(notice)
        else:
            self.revision = notice.revision
            self._is_up = True
            self._become_ready()

    def _take_load(self, reply: Loaded | Progress | Done | Failed | Blocked, load: RunningLoad) -> None:
        """Ends a load without a call."""
        if not isinstance(reply, (Loaded, Failed)):
            self._violated(f"a reply to {reply.id!r} that is not one to a load")
            return
        if isinstance(reply, Failed):
            if load.order.execution_id is not None:
                self._log_traceback(reply, load.log_ids())
            self._end_load_ahead(error_of(reply))
            return
        self._definitions.loaded(load.program.definition, is_concurrent=reply.is_concurrent)
        self._note_loaded(load.program.definition)
        self._end_load_ahead(None)

    def _end_load_ahead(self, failure: ExecutionError | None) -> None:
        load, self._load = self._load, None
        if load is not None:
            load.on_end(failure)

    def _take_loaded(self, running: RunningCall, *, is_concurrent: bool) -> None:
        """Lets the call's time begin: its deadline moves by the time that the loading took."""
        if running.load_due is None:
            self._violated("it says that a program is loaded, which it was not to load")
            return
        call = running.call
        self._definitions.loaded(call.program.definition, is_concurrent=is_concurrent)
        call.deadline += running.end_load()
        self._note_loaded(call.program.definition)
        if self._when_due_changes is not None:
            self._when_due_changes()

    def _take_left(self, left: Left) -> None:
        program, is_mixed = self._who_left(left.id)
        if program is None:
            self._violated(f"it says what {left.id!r} has left, which it was not at")
            return
        if self.left_by is not None:
            return
        self.left_by = program
        self._blamed = None if is_mixed else program.quarantine_key
        _log.warning(
            "program left its worker unfit for others; it is replaced",
            left=[truncate(what, MAX_LEFT_LENGTH) for what in left.what[:MAX_LEFT]],
            pid=self.pid,
            program_id=program.id,
            execution_id=truncate(left.id, MAX_LEFT_LENGTH),
            **({"or_of": "a call beside it"} if is_mixed else {}),
        )
        if self._load is None and self._when_left is not None:
            self._when_left()

    def _who_left(self, execution_id: str) -> tuple[Program | None, bool]:
        """The program of a call that has left something, or that ended last; True if a call beside it may have."""
        if (running := self._running.get(execution_id)) is not None:
            return running.call.program, self._is_mixed
        if execution_id == self._ended_id or self._was_mixed:
            return self._ended_program, self._was_mixed
        return None, False

    def _take_check(self, reply: Loaded | Progress | Done | Failed | Checked | Blocked) -> None:
        check = self._check
        if check is None or not isinstance(reply, (Checked, Failed)):
            self._violated("a reply that is not one to a check")
            return
        self._check = None
        if check.done():
            return
        if isinstance(reply, Failed) and reply.code == CODE_OUTDATED:
            check.set_exception(CodeOutdated(on_disk=truncate(reply.detail, MAX_LEFT_LENGTH), of_workers=self.revision))
        elif isinstance(reply, Failed):
            check.set_exception(EntrypointError(reply.detail, at=reply.field or "entrypoint"))
        else:
            check.set_result(reply.derived)

    def _end_run(self, running: RunningCall, outcome: Result | Exception, spans: Sequence[msgspec.Raw]) -> None:
        call = running.call
        self._running.pop(call.execution_id, None)
        self._was_mixed, self._is_mixed = self._is_mixed, self._is_mixed and bool(self._running)
        self._ended_id, self._ended_program = call.execution_id, call.program
        running.end(outcome, spans)

    def _error_of(self, failed: Failed, call: Call) -> ExecutionError:
        error = error_of(failed)
        error.run_s = failed.run_us / 1e6
        error.usage = failed.usage
        if isinstance(error, InvalidOutputs):
            self._log_invalid_outputs(error, call)
        self._log_traceback(failed, call.log_ids())
        return error

    def _log_traceback(self, failed: Failed, ids: dict[str, str | None]) -> None:
        if failed.traceback is not None and self._output.admits(len(failed.traceback)):
            _log.warning("program raised", pid=self.pid, traceback=failed.traceback, **ids)

    def _log_invalid_outputs(self, error: InvalidOutputs, call: Call) -> None:
        if self._output.admits(len(error.detail)):
            _log.warning(
                "outputs do not fit the signature",
                pid=self.pid,
                field=error.field,
                reason=error.detail,
                **call.log_ids(),
            )

    def _become_ready(self) -> None:
        if self._is_up and self.pid and not self.ready.done():
            self.ready.set_result(None)

    def _violated(self, fault: str) -> None:
        self.fault = fault
        self.kill(ExitCause.CRASH)

    def _channel_ended(self, fault: str | None) -> None:
        # If the worker has died, the report of its exit follows. A living worker that cannot reply is useless.
        self.fault = self.fault or fault
        self._end_fell_silent()
        if self.ended_for is None:
            self._arm(KILL_GRACE_S, self._orphaned)

    def _end_fell_silent(self) -> None:
        self._open_ends -= 1
        if not self._open_ends and self._when_silent is not None:
            self._when_silent()

    def _orphaned(self) -> None:
        self.fault = self.fault or "it closed its channel"
        self.kill(ExitCause.CRASH)

    # --- the process

    def _signal(self, number: signal.Signals) -> None:
        if self._handle is not None and not self.exited.done():
            self._handle.send_signal(number)

    def _arm(self, delay_s: float, action: Callable[[], None]) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = self._loop.call_later(delay_s, action)

    def _log_record(self, record: Record) -> None:
        _log.log(
            named_level(record.level),
            record.text,
            source=record.source,
            pid=self.pid,
            **self._about(record),
        )

    def _about(self, record: Record) -> dict[str, str | None]:
        """Returns the ids of a record's call. A record without ids was written past Python, by the running call."""
        if record.execution_id is not None or (self._load is None and len(self._running) != 1):
            return {
                "program_id": record.program_id,
                "execution_id": record.execution_id,
                "trace_id": record.trace_id,
            }
        return self.log_ids()

    def _log_left_out(self, count: int) -> None:
        _log.warning("lines of a worker left out of the log", count=count, pid=self.pid, **self.log_ids())
