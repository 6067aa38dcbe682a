"""`POST /programs/{id}/execute`, the hot lane: one call from its request to its answer, top to bottom.

A plain call, which asks for one answer and waits for nothing but its pool, has no task: `begin` gives it to the router,
and `_ended` answers it when the worker's reply has arrived. All others are served by a task, in `serve`.

The lane runs ahead of FastAPI's routing, validation and middleware, and needs none of them. It reads the envelope, and
passes the inputs unparsed to the worker, which checks them. Auth, errors and metrics are those of every other endpoint.
The lane checks the key before it reads the body.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from app.access.auth import ANONYMOUS, Authenticator, Principal
from app.access.hosts import HostGuard
from app.execute import large_body, server_span
from app.execute.call_head import IDEMPOTENCY_KEY, PREFIX, SUFFIX
from app.execute.envelopes import Envelope, misfit_of
from app.execute.exchange import NO_REVISION, AsgiExchange, ClientGone, ConnectionExchange, Endpoint, Exchange
from app.execute.execution_ids import ExecutionIds
from app.execute.idempotency import Once, kept
from app.execute.job_view import job_view
from app.execute.response import (
    Response,
    Rest,
    answer_lines,
    around_outputs,
    json_lines,
    problem_lines,
    result_lines,
)
from app.execute.streaming import EventBuffer, EventStream
from app.execute.text_check import check_text
from app.execute.version_headers import version_lines
from app.logs import current_call
from app.problems import Problem, problem_of
from app.replicas.replica import Replica
from app.services import Services
from common.log_budget import LineBudget
from config import api_keys
from config.settings import Settings
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, ExecutionTimeout, InvalidOutputs
from pools.process.json_check import MAX_SCANNED_BYTES
from poolshift.worker.framing import MALFORMED, MAX_COPIED_BYTES
from routing.catalog.idempotency import KeyedCall, Outcome
from routing.catalog.jobs import Job
from routing.catalog.programs import CataloguedProgram
from routing.router import Route
from routing.telemetry.http_metrics import HandlerMetrics
from routing.versions import Version

TRACEPARENT: Final = b"traceparent"
SYNTHETIC: Final = b"x-poolshift-synthetic"
"""The header by which an admin who forces a version says that the call is a test: it is in no organic figure."""
_SHORTEST_PATH: Final = len(PREFIX) + 1 + len(SUFFIX)
_MAX_FAILURE_LINES = 50
"""Log lines a second. A service that sheds thousands of calls logs their number, not a line for each."""

_log = structlog.stdlib.get_logger("poolshift.http")
_EXECUTE: Final = api_keys.Scope.EXECUTE
_NAMES: Final = {version: version.value.encode() for version in Version}
_decode_envelope: Final = msgspec.json.Decoder(Envelope).decode
_perf_counter: Final = time.perf_counter


def is_execute(scope: Scope) -> bool:
    """Tells if a request is for this endpoint."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["path"]
    return path.endswith(SUFFIX) and path.startswith(PREFIX) and len(path) >= _SHORTEST_PATH


class ExecuteLane(Endpoint):
    """The endpoint: `serve` for connections, and an ASGI application for what uvicorn has parsed."""

    def __init__(
        self,
        services: Services,
        authenticator: Authenticator,
        settings: Settings,
        metrics: HandlerMetrics,
        replica: Replica | None = None,
    ) -> None:
        """Takes the `replica` that this process is, if there are several on this machine."""
        self._services = services
        self._replica = replica
        self._router = services.router
        self._tracing = services.tracing
        self._sessions = services.sessions
        self._programs = services.programs
        self._lms = services.lms
        self._authenticator = authenticator
        self._is_open = authenticator.is_open
        self._host_guard = HostGuard.of(settings)
        self._max_body_bytes = settings.max_body_bytes
        self._deadlines = services.deadlines
        self._call_s = services.deadlines.call_s
        self._version_lines = version_lines(services.migration.sunset)
        self._webhook_allow = settings.webhook_allow_list
        self.metrics = metrics
        self._once = Once(services.keys, services.programs, services.jobs)
        self._loop = asyncio.get_running_loop()
        self._ids = ExecutionIds()
        self._failure_lines = LineBudget(lines=_MAX_FAILURE_LINES, size=1024 * 1024, tell=_tell_left_out)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(AsgiExchange(scope, receive, send, self._services.tasks))

    def begin(self, exchange: ConnectionExchange) -> bool:
        """Begins a plain call. Returns False for one that is to be served: nobody has heard of it then."""
        if not exchange.head.is_plain:
            return False
        if self._replica is not None and self._replica.is_behind:
            return False
        try:
            return self._begin_plain(exchange)
        except Exception as error:
            self._finish(exchange, self._refused(exchange, error))
            return True

    def _begin_plain(self, exchange: ConnectionExchange) -> bool:
        self._begin(exchange)
        principal = self.authorise_again(exchange)
        envelope = exchange.envelope = _read(exchange.whole_body(self._max_body_bytes), worker_may_check=True)
        session_id = envelope.session_id
        if session_id is not None and not self._sessions.admits(session_id, principal.caller):
            return False  # the store has to be asked
        program = self._programs.resolve(exchange.head.program_id, session_id)
        if program is None:
            return False
        route = self._route(exchange, principal, session_id)
        if envelope.webhook is not None:
            self._check_webhook(envelope.webhook, "execute")
        call = self._make_call(exchange, program, envelope)
        exchange.is_counted = True
        operation = "synthetic" if exchange.is_synthetic else "execute"
        run = self._router.begin(route, call, operation, exchange.ended)
        if not run.is_over:
            exchange.run = run
        return True

    def left(self, exchange: ConnectionExchange) -> None:
        assert exchange.run is not None
        self._router.cancel(exchange.run)
        self._note_session(exchange, exchange.run.call)
        _end_trace(exchange, None)

    def ended(self, exchange: ConnectionExchange, outcome: Result | Exception) -> None:
        call = exchange.call
        assert call is not None
        try:
            self._note_session(exchange, call)
            if isinstance(outcome, Result):
                response, rest = self._in_parts(exchange, call, outcome)
                self._finish(exchange, response, rest)
            else:
                self._finish(exchange, self._refused(exchange, outcome))
        except Exception:
            _log.exception("unforeseen error", execution_id=exchange.execution_id)
            exchange.end()

    def _refused(self, exchange: Exchange, error: Exception) -> Response:
        token = current_call.set(exchange)
        try:
            return self._refuse(exchange, error)
        finally:
            current_call.reset(token)

    def _note_session(self, exchange: Exchange, call: Call) -> None:
        if call.session_id is not None and exchange.route is not None:
            self._sessions.seen(call.session_id, exchange.route.decision.version, exchange.owner)

    def _finish(self, exchange: ConnectionExchange, response: Response, rest: Rest = ()) -> None:
        """Writes an answer. The call is counted before: a client that has the answer finds it in the metrics."""
        status, _, body = response
        size = len(body)
        if rest:
            size += sum([len(part) for part in rest])
        self.metrics.answered(status, _perf_counter() - exchange.began, exchange.received, size)
        if exchange.trace is not None:
            _end_trace(exchange, status)
        exchange.write(response, rest)

    async def serve(self, exchange: Exchange) -> None:
        """Answers a call, whether it succeeds or fails."""
        if not exchange.execution_id:
            self._begin(exchange)
        current_call.set(exchange)
        response: Response | None
        try:
            response = await self._execute(exchange)
        except ClientGone:
            _end_trace(exchange, None)
            return
        except Exception as error:
            response = self._refuse(exchange, error)
        if response is None:
            _end_trace(exchange, 200)
            return
        # Counted before the answer leaves: a client that has it finds it in the metrics.
        status, _, body = response
        self.metrics.answered(status, time.perf_counter() - exchange.began, exchange.received, len(body))
        _end_trace(exchange, status)
        await exchange.answer(response)

    def admits(self, exchange: Exchange) -> bool:
        """Tells if the sender of a call may run programs, before the body has arrived."""
        try:
            self.authorise(exchange)
        except Problem:
            return False
        return True

    def _begin(self, exchange: Exchange) -> None:
        exchange.execution_id = self._ids.next()
        if exchange.head.has_trace:
            exchange.trace, exchange.traceparent, exchange.carried = self._tracing.begin(exchange.headers)
        else:
            exchange.trace = self._tracing.begin_own()

    async def _execute(self, exchange: Exchange) -> Response | None:
        """Runs a call and returns its answer; None if the answer has been sent already, by parts."""
        await self._catch_up()
        if exchange.principal is None:
            self.authorise(exchange)
        if exchange.keyed is None and IDEMPOTENCY_KEY in exchange.headers:
            return await self._execute_once(exchange)
        operation, envelope = exchange.operation, exchange.envelope
        body = await exchange.body(self._max_body_bytes)
        principal = self.authorise_again(exchange)
        if envelope is None:
            envelope = _read(body, worker_may_check=operation != "async")
        session_id = envelope.session_id
        await self._catch_up()
        self._route(exchange, principal, session_id)
        program_id = exchange.head.program_id
        if session_id is not None and not self._sessions.admits(session_id, principal.caller):
            await self._sessions.admit_call(session_id, principal.caller, program_id)
        program = self._programs.resolve(program_id, session_id) or await self._programs.seek(
            check_text("path.program_id", program_id), session_id
        )
        self._check_webhook(envelope.webhook, operation)
        call = self._make_call(exchange, program, envelope, is_job=operation == "async")
        if operation == "stream":
            return await self._stream(exchange, call)
        if operation == "async":
            return await self._start_job(exchange, call, envelope.webhook)
        if exchange.keyed is not None:
            return await self._outcome(exchange, call, operation)
        with exchange:
            result = await self._run(exchange, call, operation)
        if len(result.outputs) > MAX_SCANNED_BYTES:
            await self._answer_in_parts(exchange, call, result)
            return None
        return self._answer(exchange, call, result)

    async def _catch_up(self) -> None:
        """Waits until this replica has followed what the others of its machine had changed before."""
        if self._replica is not None and self._replica.is_behind:
            await self._replica.catch_up()

    def _route(self, exchange: Exchange, principal: Principal, session_id: str | None) -> Route:
        """Decides the version of a call, and notes if it is a test's."""
        forced = self.forced_version(exchange, principal) if exchange.head.is_forced else None
        return self._take_route(exchange, forced, session_id)

    def _take_route(self, exchange: Exchange, forced: Version | None, session_id: str | None) -> Route:
        if forced is not None and SYNTHETIC in exchange.headers:
            exchange.is_synthetic = True
            route = self._router.synthetic(forced, exchange.trace)
        else:
            route = self._router.route(session_id, exchange.head.canary_key, forced, exchange.trace)
        exchange.route = route
        return route

    async def _execute_once(self, exchange: Exchange) -> Response:
        """Answers a call with an `Idempotency-Key`, which runs only if it is the first."""
        operation = exchange.operation
        if operation == "stream":
            detail = "Idempotency-Key: a stream has no second answer; send `Prefer: respond-async` instead"
            raise Problem("invalid_request", detail)
        body = await exchange.body(self._max_body_bytes)
        self.authorise_again(exchange)
        envelope = _read(body)
        if operation == "async":
            return await self._once.start_job(exchange, body, partial(self._execute, exchange))
        call = exchange.head.program_id, envelope.session_id
        return await self._once.answer(exchange, operation, body, call, partial(self._carry_out, exchange))

    async def _carry_out(self, exchange: Exchange) -> Outcome:
        """Runs the first call with its key, whatever becomes of its client."""
        try:
            response = await self._execute(exchange)
        except Exception as error:
            response = self._refuse(exchange, error)
        assert response is not None  # a stream has no key
        return kept(response), not exchange.is_retry_safe

    def _lines(self, exchange: Exchange, version: Version, call: Call | None, run_s: float) -> bytes:
        """Writes the headers of every answer; `call` is None for one that has not waited yet."""
        return answer_lines(self._version_lines[version], exchange.execution_id, call, run_s)

    # --- the steps before a call runs

    def authorise(self, exchange: Exchange) -> Principal:
        """Finds the sender of a call. Raises Problem if it may not run programs."""
        head, revision = exchange.head, self._authenticator.revision
        principal = head.principal
        if principal is None or head.keys_revision != revision:
            principal = head.principal = self._sender(exchange)
            head.keys_revision = revision
        exchange.principal = principal
        exchange.keys_revision = revision
        return principal

    def _sender(self, exchange: Exchange) -> Principal:
        self._host_guard.check(exchange.headers)
        principal = ANONYMOUS if self._is_open else self._authenticator.principal(exchange.headers)
        if _EXECUTE not in principal.scopes:
            raise Problem("forbidden", "this needs the scope execute")
        return principal

    def authorise_again(self, exchange: Exchange) -> Principal:
        """Returns the sender of a call whose body has come. Raises Problem if the key was revoked meanwhile.

        The first call with an idempotency key has been let in already, and its outcome is kept.
        """
        principal, revision = exchange.principal, exchange.keys_revision
        if principal is None:
            return self.authorise(exchange)
        if revision != NO_REVISION and revision != self._authenticator.revision and exchange.keyed is None:
            return self.authorise(exchange)
        return principal

    def forced_version(self, exchange: Exchange, principal: Principal) -> Version | None:
        """Reads the version that an admin forces. Raises Problem if the sender may not, or no such pool runs."""
        forced = exchange.forced_version()
        if forced is not None:
            if not principal.may(api_keys.Scope.ADMIN):
                raise Problem("forbidden", "forcing a version needs the scope admin")
            if forced not in self._services.pools:
                raise Problem("invalid_request", f"X-Pool-Version: this service runs no pool {forced}")
        return forced

    def _check_webhook(self, url: str | None, operation: str) -> None:
        """Raises Problem if a call names a webhook, unless it is a job whose webhook may be told of its end."""
        if url is None:
            return
        if operation != "async":
            raise Problem(
                "invalid_request",
                "body.webhook: a job alone has one; send `Prefer: respond-async`, and no event stream",
            )
        if (refusal := self._webhook_allow.refusal(url)) is not None:
            raise Problem("invalid_request", f"body.webhook: {refusal}")

    def _make_call(
        self,
        exchange: Exchange,
        program: CataloguedProgram,
        envelope: Envelope,
        *,
        is_job: bool = False,
    ) -> Call:
        assert exchange.route is not None
        exchange.program = program
        session_id, version = envelope.session_id, exchange.route.decision.version
        own = program.v2
        chosen: Program = program if own is None or version is Version.V1 else own
        seconds, began = self._call_s, self._loop.time()
        if is_job or envelope.timeout_s is not None or chosen.has_limits:
            seconds = self._deadlines.seconds(envelope.timeout_s, chosen.definition, is_job=is_job)
        # By their positions: names would cost as much as all the rest of an instance.
        exchange.call = call = Call(
            exchange.execution_id,
            chosen,
            envelope.inputs,
            began + seconds,
            session_id,
            exchange.traceparent,
            exchange.carried,
            exchange.trace,
            self._lms.of_call(session_id, version) if chosen.uses_lm else None,
        )
        call.is_background = is_job
        if own is not None or (chosen.uses_lm and self._lms.differ):
            call.choose = partial(self._choose, program, own, began)
        if not exchange.is_synthetic:
            self._programs.used(program, began)
        return call

    def _choose(self, program: Program, own: Program | None, began: float, call: Call, version: str) -> None:
        """Gives a call that goes to another version that version's definition and LM, and no more time than it has.

        Raises:
            LMError, LMNotConfigured: that version has no LM for it.
        """
        if own is None or version == Version.V1:
            call.program = program if own is None else self._of_v1(program, own, call.session_id)
        else:
            call.program = own
        definition = call.program.definition
        if definition.limits is not None and definition.limits.timeout_s is not None:
            call.deadline = min(call.deadline, began + definition.limits.timeout_s)
        call.lm = self._lms.of_call(call.session_id, Version(version)) if definition.uses_lm else None

    def _of_v1(self, program: Program, own: Program, session_id: str | None) -> Program:
        """Returns V1's definition of a program: V2's own one, if that has become everyone's since the call began."""
        now = self._programs.resolve(program.id, session_id)
        if now is not None and now.key == program.key and now.definition == own.definition:
            return now
        return program

    # --- running it

    def _run(self, exchange: Exchange, call: Call, operation: str) -> Coroutine[Any, Any, Result]:
        """Returns the coroutine that brings the call to its result."""
        assert exchange.route is not None
        exchange.is_counted = True
        if exchange.is_synthetic:
            operation = "synthetic"
        run = self._router.execute(exchange.route, call, operation)
        return run if call.session_id is None else self._run_in_session(exchange, exchange.route, call.session_id, run)

    async def _run_in_session(
        self, exchange: Exchange, route: Route, session_id: str, run: Coroutine[Any, Any, Result]
    ) -> Result:
        try:
            return await run
        finally:
            self._sessions.seen(session_id, route.decision.version, exchange.owner)

    def route_item(self, exchange: Exchange, forced: Version | None, session_id: str | None) -> Version:
        """Begins an item of a batch, and decides its version."""
        exchange.is_item = True
        self._begin(exchange)
        self._take_route(exchange, forced, session_id)
        assert exchange.route is not None
        return exchange.route.decision.version

    async def run_item(
        self, exchange: Exchange, program: CataloguedProgram, envelope: Envelope, fits: Callable[[int], bool]
    ) -> bytes:
        """Runs an item that has a route, and returns the body of its answer, a result or a problem.

        `fits` tells if the batch's answer has room for a result of so many bytes.
        """
        current_call.set(exchange)
        exchange.began = time.perf_counter()
        try:
            response = await self._item_outcome(exchange, program, envelope, fits)
        except asyncio.CancelledError:
            _end_trace(exchange, None)
            raise
        _end_trace(exchange, response[0])
        return response[2]

    async def _item_outcome(
        self, exchange: Exchange, program: CataloguedProgram, envelope: Envelope, fits: Callable[[int], bool]
    ) -> Response:
        try:
            call = self._make_call(exchange, program, envelope)
            response = self._answer(exchange, call, await self._run(exchange, call, "batch"))
        except Exception as error:
            return self._refuse(exchange, error)
        if not fits(len(response[2])):
            detail = "the answers of the batch are too large together: send fewer items at once"
            return self._refuse(exchange, InvalidOutputs(detail))
        return response

    async def _stream(self, exchange: Exchange, call: Call) -> Response | None:
        """Answers with events, or with an ordinary answer if the call fails before the first event."""
        route = exchange.route
        assert route is not None
        assert isinstance(exchange, AsgiExchange)  # no plain call asks for events
        call.events = events = EventBuffer()
        outcome = self._services.tasks.start(self._outcome(exchange, call, "stream"))
        stream = EventStream(
            events,
            outcome,
            lambda: self._lines(exchange, route.decision.version, call, 0.0),
            exchange.send,
        )
        try:
            with exchange:
                response = await stream.run()
        except TimeoutError:
            _log.warning("a client did not read the rest of its stream")
            raise ClientGone from None
        finally:
            outcome.cancel()
        if response is None:
            seconds = time.perf_counter() - exchange.began
            self.metrics.answered(200, seconds, exchange.received, stream.bytes_sent)
        return response

    async def _outcome(self, exchange: Exchange, call: Call, operation: str) -> Response:
        """Runs a call and returns its ordinary answer, a result or a problem."""
        try:
            return self._answer(exchange, call, await self._run(exchange, call, operation))
        except Exception as error:
            return self._refuse(exchange, error)

    async def _start_job(self, exchange: Exchange, call: Call, webhook: str | None) -> Response:
        """Runs the call in the background after the answer, which names the URL of the result."""
        assert exchange.route is not None
        if call.session_id is not None:
            self._sessions.seen(call.session_id, owner=exchange.owner)
        job = await self._services.jobs.start(
            exchange.route,
            call,
            lambda: self._run(exchange, call, "async"),
            lambda result: self._answer(exchange, call, result)[2],
            lambda error: self._refuse(exchange, error)[2],
            exchange.owner,
            None if exchange.keyed is None else partial(self._with_answer, exchange, exchange.keyed),
            webhook,
        )
        return self._accepted(exchange, job)

    def _accepted(self, exchange: Exchange, job: Job) -> Response:
        assert exchange.route is not None
        body = job_view(job).model_dump_json().encode()
        lines = self._lines(exchange, exchange.route.decision.version, None, 0.0) + json_lines(len(body))
        lines += b"location: /executions/%s\r\npreference-applied: respond-async\r\n" % job.id.encode()
        return 202, lines, body

    def _with_answer(self, exchange: Exchange, keyed: KeyedCall, job: Job) -> KeyedCall:
        """Adds the answer that a job's start will have: both are stored at once."""
        return replace(keyed, answer=kept(self._accepted(exchange, job)))

    # --- the answer

    def _answer(self, exchange: Exchange, call: Call, result: Result) -> Response:
        (status, lines, body), rest = self._in_parts(exchange, call, result)
        return status, lines, b"".join((body, *rest))

    def _in_parts(self, exchange: Exchange, call: Call, result: Result) -> tuple[Response, Rest]:
        """Writes an answer around its outputs. No copy is made of large ones."""
        assert exchange.route is not None
        version, execution_id = exchange.route.decision.version, call.execution_id.encode()
        seconds = (result.told_at or _perf_counter()) - exchange.began
        start, end = around_outputs(execution_id, call.program, _NAMES[version], result, seconds)
        size = len(start) + len(result.outputs) + len(end)
        lines = result_lines(self._version_lines[version], execution_id, call, result.run_s, size)
        if size <= MAX_COPIED_BYTES:
            return (200, lines, b"".join((start, result.outputs, end))), ()
        return (200, lines, start), (memoryview(result.outputs), end)

    async def _answer_in_parts(self, exchange: Exchange, call: Call, result: Result) -> None:
        """Sends an answer with large outputs, of which no copy is made: the event loop would stand still for it."""
        response, rest = self._in_parts(exchange, call, result)
        size = len(response[2]) + sum([len(part) for part in rest])
        self.metrics.answered(200, time.perf_counter() - exchange.began, exchange.received, size)
        await exchange.answer(response, rest)

    def _refuse(self, exchange: Exchange, error: Exception) -> Response:
        """Counts and logs a failed call, and returns the problem as its answer."""
        problem = problem_of(error)
        exchange.error = problem.code
        program = exchange.program if exchange.call is None else exchange.call.program
        if program is not None:
            self._explain(problem, program, exchange.call)
        exchange.is_retry_safe = problem.retry_safe
        version = self._count_failure(exchange, problem)
        self._keep_failure(exchange, problem, version)
        if problem.kind.status >= 500 and self._failure_lines.admits(0):
            _log_failure(exchange, problem, version)
        run_s = error.run_s if isinstance(error, ExecutionError) else 0.0
        body = problem.body(pool_version=version, execution_id=exchange.execution_id)
        lines = self._lines(exchange, version, exchange.call, run_s) + problem_lines(problem, len(body))
        return problem.kind.status, lines, body

    def _explain(self, problem: Problem, program: Program, call: Call | None) -> None:
        """Adds to a problem what the program's definition tells."""
        if program.definition.idempotent:
            problem.retry_safe = True
        if problem.code != ExecutionTimeout.code or call is None or call.is_background:
            return
        if self._loop.time() >= call.deadline:
            problem.detail += self._deadlines.hint(program.definition)

    def _count_failure(self, exchange: Exchange, problem: Problem) -> Version:
        """Counts a failed call, and returns the version that it counts for."""
        route = exchange.route or self._route_of_early_failure(exchange)
        if not exchange.is_counted:
            operation = "synthetic" if exchange.is_synthetic else "batch" if exchange.is_item else exchange.operation
            self._router.record_failure(route, problem.code, problem.kind.category, operation, exchange.began)
        return route.decision.version

    def _route_of_early_failure(self, exchange: Exchange) -> Route:
        """Routes a call that failed before its session was known: as its admin forces it, else by the split."""
        if exchange.principal is not None and exchange.head.is_forced:
            with suppress(Problem):
                self._route(exchange, exchange.principal, None)
        if exchange.route is None:
            exchange.route = self._router.route(None, exchange.head.canary_key)
        return exchange.route

    def _keep_failure(self, exchange: Exchange, problem: Problem, version: Version) -> None:
        program = exchange.program
        self._services.failures.add(
            version,
            problem.code,
            problem.kind.category,
            program_id=exchange.head.program_id if program is None else program.id,
            execution_id=exchange.execution_id,
            trace_id=exchange.trace_id,
            is_traced=exchange.trace is not None,
            detail=problem.detail,
        )


def _log_failure(exchange: Exchange, problem: Problem, version: Version) -> None:
    # The program returned these outputs and did not raise, so no other line says what is wrong with them.
    wrong = {"field": problem.extensions.get("field"), "reason": problem.detail}
    _log.warning(
        "call failed",
        code=problem.code,
        status=problem.kind.status,
        pool_version=version,
        program_id=exchange.program.id if exchange.program is not None else None,
        execution_id=exchange.execution_id,
        trace_id=exchange.trace_id,
        duration_ms=round((time.perf_counter() - exchange.began) * 1000, 3),
        **(wrong if problem.code == "invalid_outputs" else {}),
    )


def _end_trace(exchange: Exchange, status: int | None) -> None:
    """Ends a sampled call's trace; `status` is the answer's, or None if the client has left."""
    if exchange.trace is None:
        return
    name, values = server_span.name_of(exchange), server_span.attributes(exchange)
    if status is None:
        exchange.trace.abandoned(name, values)
    else:
        exchange.trace.answered(name, status, server_span.fault(exchange.error), values)


def _tell_left_out(count: int) -> None:
    _log.warning("calls failed, without a line for each", count=count)


def _read(body: bytes, *, worker_may_check: bool = False) -> Envelope:
    """Reads a call's body. If the worker may find what is wrong with large inputs, nobody scans them before."""
    if worker_may_check and len(body) > large_body.LARGE_BYTES:
        envelope = large_body.envelope_of(body)
        if envelope is not None:
            return envelope
    try:
        return _decode_envelope(body)
    except MALFORMED as error:
        raise Problem("invalid_request", f"body: {misfit_of(error)}") from None
