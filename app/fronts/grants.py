"""Decides which calls fronts may run by themselves, and counts those that they have run.

A call is granted if it is a plain one of a Python program without limits of its own, and if every such call goes to V2.
A grant is for one head: a path, a host and a key. It holds until the gate closes, which it does for every change that
could make the service answer such a call in another way.
"""

import time
from typing import Final

import msgspec

from app.access.auth import Authenticator
from app.execute.exchange import Exchange
from app.fronts.figures import FrontFigures
from app.fronts.gate import Gate
from app.fronts.link import FrontLink
from app.fronts.loans import Loans
from app.fronts.messages import Failure, Grant, Ran
from app.fronts.named import name_of
from app.http_metrics import HandlerMetrics
from app.services import Services
from app.sunset import version_lines
from pools.calls import Call
from routing.catalog.programs import CataloguedProgram
from routing.rollout.model import Rollout
from routing.telemetry.call_trace import CallTrace
from routing.telemetry.recorder import EXECUTE, OK
from routing.versions import Decision, Version

_MAX_FLOWS: Final = 10_000
"""Flows of one generation. Those of the last two are remembered."""

_pack: Final = msgspec.msgpack.Encoder().encode


class _Flow:
    """Calls of one program, as they are counted."""

    def __init__(self, number: int, program: CataloguedProgram, decision: Decision) -> None:
        self.number = number
        self.program = program
        self.decision = decision


class Grants:
    """Grants calls to fronts, and counts those that they have run."""

    def __init__(
        self,
        services: Services,
        loans: Loans,
        gate: Gate,
        metrics: HandlerMetrics,
        authenticator: Authenticator,
        *,
        timeout_s: float,
        max_body_bytes: int,
        figures: FrontFigures,
    ) -> None:
        self._figures = figures
        self._services = services
        self._router = services.router
        self._recorder = services.recorder
        self._programs = services.programs
        self._engine = services.pool_set.engines[Version.V2]
        self._loans = loans
        self._gate = gate
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes
        self._version_lines = version_lines(services.migration.sunset)[Version.V2]
        self._flows: dict[int, _Flow] = {}
        self._flows_before: dict[int, _Flow] = {}
        self._by_program: dict[CataloguedProgram, _Flow] = {}
        self._numbers = 0
        self.is_ending = False
        services.flag.listen(self._rollout_changed)
        services.programs.when_changed = loans.close_gate
        authenticator.when_replaced = loans.close_gate

    def __repr__(self) -> str:
        return f"<Grants flows={len(self._flows)} epoch={self._gate.epoch}>"

    def _rollout_changed(self, _: Rollout) -> None:
        self._loans.close_gate()

    # --- grants

    @property
    def epoch(self) -> int:
        """The epoch in force."""
        return self._gate.epoch

    def grant(self, link: FrontLink, exchange: Exchange, epoch: int) -> bytes:
        """Returns the grant for calls with the head of one that was answered, or nothing; it began in `epoch`."""
        call, program = exchange.call, exchange.program
        if epoch != self._gate.epoch or exchange.error is not None:
            return b""
        if call is None or not isinstance(program, CataloguedProgram):
            return b""
        if not self._is_plain(exchange, call, program):
            return b""
        flow = self._by_program.get(program)
        decision = self._router.only_decision(Version.V2)
        if flow is None or flow.decision is not decision:
            flow = self._new_flow(program, decision)
        named = name_of(program)
        assert named is not None
        return _pack(
            Grant(
                epoch=epoch,
                flow=flow.number,
                definition=self._loans.told(link, program.definition),
                program=named,
                timeout_s=self._timeout_s,
                version_lines=self._version_lines,
                sampling=self._sampling(),
                reason=decision.reason,
                revision=self._services.flag.current.revision,
                max_body_bytes=self._max_body_bytes,
            )
        )

    def _is_plain(self, exchange: Exchange, call: Call, program: CataloguedProgram) -> bool:
        definition = program.definition
        return (
            not self.is_ending
            and self._router.may_grant
            and call.program is program
            and call.choose is None
            and call.session_id is None
            and exchange.keyed is None
            and definition.limits is None
            and definition.program_type == "python"
            and self._programs.resolve(program.id, None) is program
            and not self._engine.is_suspect(program)
        )

    def _sampling(self) -> tuple[float, bool] | None:
        tracing = self._services.tracing
        return (tracing.sampling.ratio, tracing.sampling.honours_parent) if tracing.exports else None

    def _new_flow(self, program: CataloguedProgram, decision: Decision) -> _Flow:
        if len(self._flows) >= _MAX_FLOWS:
            self._flows_before, self._flows = self._flows, {}
            self._by_program.clear()
            self._loans.close_gate()  # nobody uses a flow for longer than it is remembered
        self._numbers += 1
        flow = self._flows[self._numbers] = self._by_program[program] = _Flow(self._numbers, program, decision)
        return flow

    # --- calls that fronts have run

    def ran(self, calls: list[Ran]) -> None:
        """Counts calls that fronts have answered, as if they had run here."""
        now = time.monotonic()
        self._figures.direct_calls += len(calls)
        by_lease: dict[int, list[Ran]] = {}
        for call in calls:
            flow = self._flow(call.flow)
            if flow is not None:
                self._programs.used(flow.program, now)
                self._recorder.decided(flow.decision)
                if call.sent >= 0:
                    self._recorder.answered(Version.V2, EXECUTE, OK, call.seconds, call.queued_s, call.trace_id)
                    self._metrics.answered(200, call.seconds, call.received, call.sent)
            if call.lease >= 0:
                by_lease.setdefault(call.lease, []).append(call)
        for lease, run in by_lease.items():
            self._loans.ran(lease, len(run), [call.served_s for call in run if call.sent >= 0])

    def failed(self, failure: Failure) -> None:
        """Counts a call that a front has begun, and that ends here."""
        if failure.dispatched_ago_s >= 0.0:
            self._figures.direct_calls += 1
            self._loans.ran(failure.lease, 1, ())

    def take_spans(self, spans: list[msgspec.Raw], lost: int) -> None:
        """Exports the spans of calls that a front has run."""
        sink = self._services.tracing.sink
        if sink is not None:
            for span in spans:
                sink.offer(span)
            if lost:
                sink.lost(lost)

    def trace_of(self, failure: Failure) -> CallTrace | None:
        """Goes on with the trace of a call that a front has begun."""
        sink = self._services.tracing.sink
        return None if sink is None or failure.trace is None else CallTrace.resumed(sink, failure.trace)

    def program_of(self, failure: Failure) -> CataloguedProgram | None:
        """Returns the program that a front has run, as it was then; None if that was too long ago."""
        flow = self._flow(failure.flow)
        return None if flow is None else flow.program

    def _flow(self, number: int) -> _Flow | None:
        return self._flows.get(number) or self._flows_before.get(number)
