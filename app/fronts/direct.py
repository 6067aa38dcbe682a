"""Calls that a front runs by itself, on workers that the service has lent it.

A call goes this way if the service has granted it for the call's head (`app.fronts.grants`). Whatever is out of the
ordinary, the service ends: a call that fails, or that has waited too long.

    no grant in force, or no ordinary body  ──► the service
    a worker idle                           ──► it runs
    none on loan                            ──► it waits for one, which the service is asked for, if it lends at all
    all busy                                ──► it waits, if that is bearable; else the service
    an answer                               ──► the client, and later, with others, the service's figures
    a failure, or another epoch             ──► the service
"""

import math
import time
from collections import deque
from typing import Final

import msgspec

from app.execute import server_span
from app.execute.envelopes import Answer, Envelope
from app.execute.execution_ids import ExecutionIds
from app.execute.response import result_lines
from app.fronts.direct_call import Borrowed, BorrowedHandle, Client, DirectCall
from app.fronts.frames import ANY_LEASE, KILL, PAID, RAN, RETURNED, WANTED, FrameStream
from app.fronts.gate import Gate
from app.fronts.granted import Granted
from app.fronts.handed import handed_of, loan_of
from app.fronts.messages import Failure, Grant, Killed, Loan, Ran, Running
from app.fronts.spans import SpansToService
from common.timers import DeadlineTimer
from pools.calls import Result, average_with
from pools.errors import CheckoutTimeout, ExecutionError, Withdrawn, WorkerLost
from pools.process.ends import WorkerEnds
from pools.process.exits import Exit, ExitCause, log_death
from pools.process.handle import ProcessHandle
from pools.process.process import WorkerProcess
from poolshift.worker.definitions import Definition
from poolshift.worker.framing import MALFORMED
from routing.telemetry.call_trace import CANCELLED, CallTrace
from routing.telemetry.spans import TraceState
from routing.telemetry.tracing import Head

REPORT_S: Final = 0.02
"""The longest time that the service's figures lack a call which was answered, unless it asks."""
MAX_REPORTED: Final = 256
"""The calls of one report."""
PATIENCE_S: Final = 0.002
"""The time that a call waits for one of the front's own workers before another's is asked for: more than a move takes.

Calls come in bursts, and most of those that wait would be served before another worker is here.
"""

_decode_envelope: Final = msgspec.json.Decoder(Envelope).decode
_encode: Final = msgspec.json.Encoder().encode
_pack: Final = msgspec.msgpack.Encoder().encode


class DirectCalls:
    """All calls and workers of one front."""

    def __init__(
        self, stream: FrameStream, gate: Gate, front: int, *, queue_limit: int, checkout_timeout_s: float
    ) -> None:
        self._stream = stream
        self._gate = gate
        self._front = front
        self._queue_limit = queue_limit
        self._checkout_timeout_s = checkout_timeout_s
        self._loop = stream.loop
        self._ids = ExecutionIds()
        self._borrowed: dict[int, Borrowed] = {}
        self._idle: list[Borrowed] = []
        self._waiting: deque[DirectCall] = deque()
        self._ran: list[Ran] = []
        self._spans = SpansToService(stream)
        self._service_time_s = 0.0
        self._owed = 0
        """The workers that the service wants back."""
        self._is_looking = False
        """A look at who has workers to spare, or calls that wait, is due soon."""
        self._deadlines = DeadlineTimer(self._overrun)
        self._waits = DeadlineTimer(self._expire)
        self._definitions: dict[int, Definition] = {}
        self._numbers: dict[Definition, int] = {}

    def __repr__(self) -> str:
        counts = f"borrowed={len(self._borrowed)} idle={len(self._idle)} waiting={len(self._waiting)}"
        return f"<DirectCalls {counts}>"

    @property
    def epoch(self) -> int:
        """The epoch in force, as the service has it."""
        return self._gate.epoch

    # --- a call

    def begin(self, granted: Granted, client: Client, body: bytes, head: Head | None) -> DirectCall | None:
        """Begins a call; returns None if it is the service's."""
        inputs = _inputs_of(body) if len(body) <= granted.max_body_bytes else None
        if inputs is None:
            return None
        is_free = bool(self._idle) and not self._waiting
        if not is_free and not self._may_wait(granted):
            return None
        call = DirectCall(granted, client, body, inputs, self._ids.next(), self._loop.time())
        if head is not None:
            self._trace(call, granted, head)
        if is_free:
            self._run(self._idle.pop(), call)
        else:
            self._let_wait(call)
        self._publish()
        if not self._borrowed:
            self._want()
        return call

    def _trace(self, call: DirectCall, granted: Granted, head: Head) -> None:
        trace, call.traceparent, call.carried = head
        if trace is not None:
            call.span = call.trace = trace
            trace.routed(granted.decision, granted.revision, time.time_ns())
            trace.queue_begins()

    def _let_wait(self, call: DirectCall) -> None:
        call.give_up_at = min(self._loop.time() + self._checkout_timeout_s, call.deadline)
        self._waiting.append(call)
        self._waits.set(call.give_up_at)
        if self._borrowed and self._gate.has_idle_but(self._front):
            self._look_soon()

    def abandon(self, call: DirectCall) -> None:
        """Ends a call whose client has left."""
        if call.span is not None and call.client is not None:
            call.span.failed(CANCELLED)
            call.span.abandoned(server_span.NAME, call.client.span_attributes(call))
        call.client = None
        if call.borrowed is not None:
            call.borrowed.process.kill(ExitCause.CANCELLED)
        else:
            self._waiting.remove(call)
            self._publish()
        self._report(call, -1)

    def _may_wait(self, granted: Granted) -> bool:
        if not self._borrowed and not self._gate.lends:
            return False
        ahead_s = (len(self._waiting) + 1) * self._service_time_s / max(1, len(self._borrowed))
        return len(self._waiting) < self._queue_limit and ahead_s < min(self._checkout_timeout_s, granted.timeout_s)

    def _run(self, borrowed: Borrowed, call: DirectCall) -> None:
        call.borrowed = borrowed
        borrowed.call = call
        try:
            borrowed.process.run(call, borrowed.ended)
        except WorkerLost:  # its death is being told
            borrowed.call = call.borrowed = None
            call.give_up_at = min(self._loop.time() + self._checkout_timeout_s, call.deadline)
            self._waiting.appendleft(call)
            self._waits.set(call.give_up_at)
            self._serve_idle()
            return
        except ExecutionError as error:
            self._end(borrowed, error)
            return
        call.dispatched_at = time.perf_counter()
        call.worker_pid = borrowed.process.pid
        self._deadlines.set(borrowed.process.due)

    def _end(self, borrowed: Borrowed, outcome: Result | Exception) -> None:
        call, borrowed.call = borrowed.call, None
        assert call is not None
        if call.dispatched_at:
            call.served_s = time.perf_counter() - call.dispatched_at - call.load_s
            self._service_time_s = average_with(self._service_time_s, call.served_s)
        try:
            self._use(borrowed)
        finally:
            if call.client is not None:
                self._finish(call, call.client, outcome)

    def _use(self, borrowed: Borrowed) -> None:
        """Gives a worker its next call, if it may have one."""
        if borrowed.lease not in self._borrowed:
            pass  # it is dead
        elif self._owed or borrowed.is_recalled or not borrowed.is_fit:
            self._give_back(borrowed)
        elif self._waiting:
            self._serve(borrowed)
        else:
            self._idle.append(borrowed)
            if self._gate.others_wait(self._front):
                self._look_soon()
        self._publish()

    def _serve_idle(self) -> None:
        """Gives calls that wait to workers that are idle, after another one was lost."""
        while self._waiting and self._idle:
            self._serve(self._idle.pop())

    def _serve(self, borrowed: Borrowed) -> None:
        call = self._waiting.popleft()
        if call.granted.epoch != self._gate.epoch:  # the service is about to say so
            self._waiting.appendleft(call)
            self.withdraw_waiting()
            self._use(borrowed)
            return
        call.queued_s = time.perf_counter() - call.began
        self._run(borrowed, call)

    def _finish(self, call: DirectCall, client: Client, outcome: Result | Exception) -> None:
        if not isinstance(outcome, Result):
            self._fail(call, client, outcome)
            return
        seconds = time.perf_counter() - call.began
        duration_ms = round(seconds * 1e6) / 1000
        body = _encode(Answer(call.execution_id, call.program.id, "v2", outcome.outputs, duration_ms, outcome.usage))
        size = len(body)
        lines = result_lines(call.granted.version_lines, call.execution_id, call, outcome.run_s, size)
        self._report(call, size)
        if call.span is not None:
            call.span.answered(server_span.NAME, 200, None, client.span_attributes(call))
        client.answer_result(lines, body)

    def _fail(self, call: DirectCall, client: Client, error: Exception) -> None:
        now, clock = time.perf_counter(), self._loop.time()
        fields = dict(vars(error))
        fields.pop("usage", None)
        failure = Failure(
            flow=call.granted.flow,
            lease=-1 if call.borrowed is None else call.borrowed.lease,
            error=type(error).__name__,
            detail=str(error),
            fields=fields,
            execution_id=call.execution_id,
            began_ago_s=now - call.began,
            left_s=call.deadline - clock,
            queued_s=call.queued_s,
            load_s=call.load_s,
            dispatched_ago_s=now - call.dispatched_at if call.dispatched_at else -1.0,
            worker_pid=call.worker_pid,
            is_cold=call.is_cold,
            served_s=call.served_s,
            trace=None if call.span is None else _handed_over(call.span, error),
        )
        self._tell_ran()  # what ended before
        client.send_failed(_pack(failure), call.body)

    # --- reports

    def _report(self, call: DirectCall, sent: int) -> None:
        if not self._ran:
            self._loop.call_later(REPORT_S, self._tell_ran)
        lease = -1 if call.borrowed is None else call.borrowed.lease
        seconds = time.perf_counter() - call.began
        self._ran.append(
            Ran(
                call.granted.flow,
                lease,
                seconds,
                call.queued_s,
                call.served_s,
                len(call.body),
                sent,
                None if call.span is None else call.span.trace_id,
            )
        )
        if len(self._ran) >= MAX_REPORTED:
            self._tell_ran()

    def tell(self) -> None:
        """Tells the service of all calls that have ended, and hands it their spans."""
        self._tell_ran()
        self._spans.tell()

    def _tell_ran(self) -> None:
        if self._ran:
            ran, self._ran = self._ran, []
            self._stream.send(RAN, 0, 0, _pack(ran))

    def running(self) -> list[Running]:
        """Lists what runs at the moment."""
        now = time.perf_counter()
        return [
            Running(one.lease, one.call.execution_id, one.call.program.id, now - one.call.dispatched_at)
            for one in self._borrowed.values()
            if one.call is not None
        ]

    def _publish(self) -> None:
        waiting = len(self._waiting)
        oldest_us = int(self._waiting[0].began * 1e6) if waiting else 0
        self._gate.front_has(self._front, waiting, len(self._idle), oldest_us)

    # --- time

    def _overrun(self, now: float) -> float:
        next_one = math.inf
        for borrowed in self._borrowed.values():
            due = borrowed.process.due
            if due <= now:
                borrowed.process.kill(ExitCause.TIMEOUT)
            else:
                next_one = min(next_one, due)
        return next_one

    def _expire(self, now: float) -> float:
        next_one = math.inf
        for call in list(self._waiting):
            if call.give_up_at > now:
                next_one = min(next_one, call.give_up_at)
                continue
            self._waiting.remove(call)
            call.queued_s = time.perf_counter() - call.began
            ahead_s = len(self._waiting) * self._service_time_s / max(1, len(self._borrowed))
            detail = f"no worker came free within {call.queued_s:.3g} s"
            self._end_waiting(call, CheckoutTimeout(detail, retry_after_s=max(1.0, math.ceil(ahead_s))))
        self._publish()
        return next_one

    def _end_waiting(self, call: DirectCall, error: Exception) -> None:
        if call.client is not None:
            self._fail(call, call.client, error)

    def withdraw_waiting(self) -> None:
        """Gives the calls that wait to the service, where they go on."""
        waiting, self._waiting = list(self._waiting), deque()
        for call in waiting:
            call.queued_s = time.perf_counter() - call.began
            self._end_waiting(call, Withdrawn())
        self._publish()

    def withdraw_running(self) -> None:
        """Gives the running calls of idempotent programs to the service, and kills their workers."""
        for borrowed in list(self._borrowed.values()):
            if borrowed.call is not None and borrowed.call.is_repeatable:
                borrowed.process.kill(ExitCause.CANCELLED)
                borrowed.process.withdraw()

    # --- workers

    def _want(self) -> None:
        self._stream.send(WANTED, 0, len(self._waiting))

    def _look_soon(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        """Asks for a worker of another for calls that have waited, or gives one back that another's have waited for."""
        self._is_looking = False
        impatient_since = time.perf_counter() - PATIENCE_S
        if self._waiting and self._gate.has_idle_but(self._front):
            if self._waiting[0].began <= impatient_since:
                self._want()
            else:
                self._look_soon()
        elif self._idle and self._gate.others_wait(self._front):
            if self._gate.others_wait_since(self._front, int(impatient_since * 1e6)):
                self._give_back(self._idle.pop(0))
                self._publish()
            else:
                self._look_soon()

    def lent(self, loan: Loan, ends: WorkerEnds) -> None:
        """Takes a worker on loan."""
        lease = loan.lease
        try:
            process = WorkerProcess(loan.generation, ends, loan.load_timeout_s, lambda _: None)
        except OSError:
            self.lost(lease)
            return
        borrowed = Borrowed(lease, process, self._end)
        handle: ProcessHandle = BorrowedHandle(lambda: self._kill(borrowed))
        process.adopt(loan.pid, handle, handed_of(loan, self._definitions.__getitem__))
        process.when_left(lambda: self._left(borrowed))
        process.when_due_changes(lambda: self._deadlines.set(process.due))
        self._borrowed[lease] = borrowed
        if self._waiting:  # even if it is to go back: a worker that moves has served a call in between
            self._serve(borrowed)
            self._publish()
        else:
            self._use(borrowed)

    def lost(self, lease: int) -> None:
        """Has the service kill a worker whose descriptors have not come."""
        killed = Killed(lease, ExitCause.CANCELLED, None, None)
        self._stream.send(KILL, 0, 0, _pack(killed))

    def recalled(self, lease: int) -> None:
        """Gives a worker back, once it is idle; with `ANY_LEASE`, the first that is."""
        if lease == ANY_LEASE:
            self._owed += 1
            while self._owed and self._idle:
                self._give_back(self._idle.pop(0))
            self._publish()
            return
        borrowed = self._borrowed.get(lease)
        if borrowed is None:
            return
        borrowed.is_recalled = True
        if borrowed in self._idle:
            self._idle.remove(borrowed)
            self._give_back(borrowed)
            self._publish()

    def died(self, lease: int, end: Exit) -> None:
        """Ends the call of a worker that is dead."""
        borrowed = self._borrowed.pop(lease, None)
        if borrowed is None:
            return
        if borrowed in self._idle:
            self._idle.remove(borrowed)
        if end.cause.is_failure:
            log_death("v2", borrowed.process.pid, end, borrowed.process.log_ids())
        borrowed.process.ended(end)
        self._serve_idle()
        self._look_for_others()
        self._publish()

    def _left(self, borrowed: Borrowed) -> None:
        if borrowed in self._idle:
            self._idle.remove(borrowed)
            self._give_back(borrowed)
            self._publish()

    def _kill(self, borrowed: Borrowed) -> None:
        process = borrowed.process
        if borrowed.lease in self._borrowed:
            cause = process.ended_for or ExitCause.CANCELLED
            killed = Killed(borrowed.lease, cause, process.kill_reason, process.fault)
            self._stream.send(KILL, 0, 0, _pack(killed))

    def _give_back(self, borrowed: Borrowed) -> None:
        """Gives an idle worker back, unless it is dying: then its death is told."""
        if borrowed.lease not in self._borrowed or borrowed.process.ended_for is not None:
            return
        handed = borrowed.process.hand_over()
        if handed is None:  # a part of a message is on its way
            self._loop.call_later(PATIENCE_S, self._give_back, borrowed)
            return
        del self._borrowed[borrowed.lease]
        _, known = handed
        self._tell_ran()
        flags = 0
        if self._owed:
            self._owed -= 1
            flags = PAID
        loan = loan_of(borrowed.lease, borrowed.process, known, self._numbers.__getitem__)
        self._stream.send(RETURNED, flags, 0, _pack(loan))
        borrowed.process.let_go()
        self._look_for_others()

    def _look_for_others(self) -> None:
        """Sees to the calls that wait after the last worker has gone."""
        if self._waiting and not self._borrowed:
            if self._gate.lends:
                self._want()
            else:
                self.withdraw_waiting()

    # --- what is known of a worker

    def know(self, number: int, definition: Definition) -> None:
        """Notes a definition by the number that the service has given it."""
        self._definitions[number] = definition
        self._numbers[definition] = number

    def granted(self, grant: Grant) -> Granted:
        """Prepares a grant for calls."""
        return Granted(grant, self._definitions[grant.definition], self._spans)


def _handed_over(trace: CallTrace, error: Exception) -> TraceState:
    if isinstance(error, ExecutionError):
        trace.failed(error.code)
    return trace.hand_over()


def _inputs_of(body: bytes) -> msgspec.Raw | None:
    """Reads the inputs of a body that has nothing else; None if it has, or is malformed."""
    try:
        envelope = _decode_envelope(body)
    except MALFORMED:
        return None
    is_plain = envelope.session_id is None and envelope.timeout_s is None and envelope.webhook is None
    return envelope.inputs if is_plain else None
