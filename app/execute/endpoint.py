"""`POST /programs/{id}/execute`, the hot lane: one call from the request's bytes to the answer's, top to bottom.

It is plain ASGI, ahead of FastAPI's routing, validation and middleware, none of which it needs: the envelope is read
here, and the inputs pass unparsed to the worker, which checks them. Auth, errors and metrics are those of every other
endpoint.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Final, Literal

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from app.api.executions import job_view
from app.auth import Authenticator
from app.execute import server_span
from app.execute.client_watch import ClientGone, ClientWatches
from app.execute.envelopes import Answer, Envelope
from app.execute.exchange import Response, answer
from app.execute.request import Request
from app.execute.streaming import EventBuffer, EventStream, asks_for_events
from app.execution_ids import ExecutionIds
from app.hosts import HostGuard
from app.http_metrics import HandlerMetrics
from app.logs import current_call
from app.problems import Problem, problem_of
from app.services import Services
from app.text import check_text
from common.log_budget import LineBudget
from config import api_keys
from config.settings import Settings
from pools.calls import Call, Result
from pools.errors import ExecutionError
from routing.versions import Version

_JSON: Final = (b"content-type", b"application/json")
_VERSION_HEADERS: Final = {version: (b"x-pool-version", version.encode()) for version in Version}
_PREFIX: Final = "/programs/"
_SUFFIX: Final = "/execute"
_SHORTEST_PATH: Final = len(_PREFIX) + 1 + len(_SUFFIX)
_PROGRAM_ID: Final = slice(len(_PREFIX), -len(_SUFFIX))
"""Of a path."""
_LISTS: Final = frozenset({b"accept", b"baggage", b"prefer", b"tracestate"})
_MAX_CANARY_KEY_LENGTH = 256
_MAX_FAILURE_LINES = 50
"""A second. A service that sheds thousands of calls says how many, not each."""

_log = structlog.stdlib.get_logger("poolshift.http")
_EXECUTE: Final = api_keys.Scope.EXECUTE
_decode_envelope: Final = msgspec.json.Decoder(Envelope).decode
_encode: Final = msgspec.json.Encoder().encode


def is_execute(scope: Scope) -> bool:
    """Whether a request is for this lane."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["path"]
    return path.endswith(_SUFFIX) and path.startswith(_PREFIX) and len(path) >= _SHORTEST_PATH


class ExecuteLane:
    """The endpoint as an ASGI application."""

    def __init__(
        self, services: Services, authenticator: Authenticator, settings: Settings, metrics: HandlerMetrics
    ) -> None:
        self._services = services
        self._router = services.router
        self._authenticator = authenticator
        self._host_guard = HostGuard.of(settings)
        self._max_body_bytes = settings.max_body_bytes
        self._execution_timeout_s = settings.execution_timeout_s
        self._metrics = metrics
        self._clients = ClientWatches(services.tasks)
        self._loop = asyncio.get_running_loop()
        self._ids = ExecutionIds()
        self._failure_lines = LineBudget(lines=_MAX_FAILURE_LINES, size=1024 * 1024, tell=_tell_left_out)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        execution_id = self._ids.next()
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]):
            headers = _joined(scope["headers"])
        trace, traceparent, carried = self._services.tracing.begin(headers)
        request = Request(execution_id, headers, time.perf_counter(), trace, traceparent, carried)
        current_call.set(request)
        try:
            response = await self._execute(request, scope, receive, send)
        except ClientGone:
            _end_trace(request, scope, None)
            return
        except Exception as error:
            response = self._refuse(request, error)
        if response is None:
            _end_trace(request, scope, 200)
            return
        # Before the answer leaves, so that whoever has it finds it counted.
        status, _, body = response
        self._metrics.answered(status, time.perf_counter() - request.began, request.received, len(body))
        _end_trace(request, scope, status)
        await answer(send, response)

    async def _execute(self, request: Request, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """The answer; None where it has been sent already, event by event."""
        self._host_guard.check(request.headers)
        principal = self._authenticator.principal(request.headers)
        if not principal.may(_EXECUTE):
            raise Problem("forbidden", "this needs the scope execute")
        envelope = _read(await self._body(request, receive))
        headers = request.headers
        forced = _forced_version(headers) if b"x-pool-version" in headers else None
        if forced is not None:
            if not principal.may(api_keys.Scope.ADMIN):
                raise Problem("forbidden", "forcing a version needs the scope admin")
            if forced not in self._services.pools:
                raise Problem("invalid_request", f"X-Pool-Version: this service runs no pool {forced}")
        session_id = envelope.session_id
        sessions = self._services.sessions
        if session_id is not None and not sessions.admits(session_id, principal.caller):
            await sessions.admit(session_id, principal.caller)
        request.owner = principal.caller.owner
        request.route = self._router.route(session_id, _canary_key(headers), forced, request.trace)
        program_id = scope["path"][_PROGRAM_ID]
        programs = self._services.programs
        program = programs.resolve(program_id, session_id) or await programs.seek(
            check_text("path.program_id", program_id), session_id
        )
        request.program = program
        lm = self._services.lms.of_call(session_id) if program.definition.program_type != "python" else None
        timeout_s = min(envelope.timeout_s or self._execution_timeout_s, self._execution_timeout_s)
        request.call = call = Call(
            execution_id=request.execution_id,
            program=program,
            inputs=envelope.inputs,
            deadline=self._loop.time() + timeout_s,
            session_id=session_id,
            traceparent=request.traceparent,
            carried=request.carried,
            trace=request.trace,
            lm=lm,
        )
        programs.used(program, time.time())
        operation = _operation(headers)
        if operation == "stream":
            return await self._stream(request, call, receive, send)
        if operation == "async":
            return await self._start(request, call)
        with self._clients.of(receive):
            result = await self._run(request, call, operation)
        return self._answer(request, call, result)

    async def _stream(self, request: Request, call: Call, receive: Receive, send: Send) -> Response | None:
        """Answers with events; with an ordinary answer where the call fails before there is one."""
        route = request.route
        assert route is not None
        call.events = events = EventBuffer()
        outcome = self._services.tasks.start(self._outcome(request, call, "stream"))
        stream = EventStream(
            events, outcome, lambda: _headers(request, route.decision.version, call.queued_s, 0.0), send
        )
        try:
            with self._clients.of(receive):
                response = await stream.run()
        except TimeoutError:
            _log.warning("a client did not read the rest of its stream")
            raise ClientGone from None
        finally:
            outcome.cancel()
        if response is None:
            seconds = time.perf_counter() - request.began
            self._metrics.answered(200, seconds, request.received, stream.bytes_sent)
        return response

    async def _outcome(self, request: Request, call: Call, operation: str) -> Response:
        """The ordinary answer, good or bad."""
        try:
            return self._answer(request, call, await self._run(request, call, operation))
        except Exception as error:
            return self._refuse(request, error)

    async def _run(self, request: Request, call: Call, operation: str) -> Result:
        assert request.route is not None
        request.is_counted = True
        try:
            return await self._router.execute(request.route, call, operation)
        finally:
            if call.session_id is not None:
                self._services.sessions.seen(call.session_id, request.route.decision.version, request.owner)

    async def _start(self, request: Request, call: Call) -> Response:
        """Runs the call behind the answer, which says where to look for its end."""
        assert request.route is not None
        if call.session_id is not None:
            self._services.sessions.seen(call.session_id, owner=request.owner)
        execution = await self._services.jobs.start(
            request.route,
            call,
            lambda: self._run(request, call, "async"),
            lambda result: self._answer(request, call, result)[2],
            lambda error: self._refuse(request, error)[2],
            request.owner,
        )
        body = job_view(execution).model_dump_json().encode()
        headers = _headers(request, request.route.decision.version, 0.0, 0.0)
        headers += [
            _JSON,
            (b"content-length", b"%d" % len(body)),
            (b"location", b"/executions/" + call.execution_id.encode()),
            (b"preference-applied", b"respond-async"),
        ]
        return 202, headers, body

    async def _body(self, request: Request, receive: Receive) -> bytes:
        body = b""
        size = int(request.headers.get(b"content-length", 0))  # uvicorn has seen that it is a number
        more_body = True
        while size <= self._max_body_bytes:
            if not more_body:
                return body
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body = body + message["body"] if body else message["body"]
            size = request.received = len(body)
            more_body = message.get("more_body", False)
        raise Problem("payload_too_large", f"the body is over {self._max_body_bytes} bytes (MAX_BODY_BYTES)")

    def _answer(self, request: Request, call: Call, result: Result) -> Response:
        assert request.route is not None
        version = request.route.decision.version
        duration_ms = round((time.perf_counter() - request.began) * 1e6) / 1000
        body = _encode(Answer(call.execution_id, call.program.id, version, result.outputs, duration_ms, result.usage))
        headers = _headers(request, version, call.queued_s, result.run_s)
        headers += (_JSON, (b"content-length", b"%d" % len(body)))
        return 200, headers, body

    def _refuse(self, request: Request, error: Exception) -> Response:
        """The answer to a call that failed, at whatever point."""
        problem = problem_of(error)
        request.error = problem.code
        if request.program is not None and request.program.definition.idempotent:
            problem.retry_safe = True
        if request.route is None:
            # It failed before its session was known: it still counts for a version, as chance would have it.
            request.route = self._router.route(None, _canary_key(request.headers))
        version = request.route.decision.version
        if not request.is_counted:
            self._router.record_failure(
                request.route, problem.code, problem.kind.category, _operation(request.headers), request.began
            )
        if problem.kind.status >= 500 and self._failure_lines.admits(0):
            self._log_failure(request, problem, version)
        queued_s = request.call.queued_s if request.call is not None else 0.0
        run_s = error.run_s if isinstance(error, ExecutionError) else 0.0
        body = problem.body(pool_version=version, execution_id=request.execution_id)
        headers = _headers(request, version, queued_s, run_s)
        headers += [(name.encode(), value.encode()) for name, value in problem.headers().items()]
        headers.append((b"content-length", b"%d" % len(body)))
        return problem.kind.status, headers, body

    def _log_failure(self, request: Request, problem: Problem, version: Version) -> None:
        _log.warning(
            "call failed",
            code=problem.code,
            status=problem.kind.status,
            pool_version=version,
            program_id=request.program.id if request.program is not None else None,
            execution_id=request.execution_id,
            trace_id=request.trace_id,
            duration_ms=round((time.perf_counter() - request.began) * 1000, 3),
        )


def _end_trace(request: Request, scope: Scope, status: int | None) -> None:
    """`status` is the answer's; None where nobody waited for it."""
    if request.trace is None:
        return
    values = server_span.attributes(scope, request.execution_id, request.program)
    if status is None:
        request.trace.abandoned(server_span.NAME, values)
    else:
        request.trace.answered(server_span.NAME, status, server_span.fault(request.error), values)


def _tell_left_out(count: int) -> None:
    _log.warning("calls failed, without a line for each", count=count)


def _read(body: bytes) -> Envelope:
    try:
        return _decode_envelope(body)
    except msgspec.ValidationError as error:
        raise Problem("invalid_request", f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("invalid_request", f"body: {error}") from None
    except RecursionError:
        raise Problem("invalid_request", "body: it is nested too deeply") from None


def _joined(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers of which some come twice: of a list all lines count (RFC 9110, 5.3), of another the last."""
    headers: dict[bytes, bytes] = {}
    for name, value in lines:
        headers[name] = headers[name] + b", " + value if name in _LISTS and name in headers else value
    return headers


def _operation(headers: dict[bytes, bytes]) -> Literal["execute", "stream", "async"]:
    """How a call wants its answer, which is also what the metrics call it."""
    accept = headers.get(b"accept")
    if accept is not None and accept != b"*/*" and asks_for_events(accept):
        return "stream"
    prefer = headers.get(b"prefer")
    return "async" if prefer is not None and _prefers_async(prefer) else "execute"


def _forced_version(headers: dict[bytes, bytes]) -> Version:
    value = headers[b"x-pool-version"].decode("latin-1")
    try:
        return Version(value.lower())
    except ValueError:
        raise Problem("invalid_request", f"X-Pool-Version: {value!r} is neither v1 nor v2") from None


def _canary_key(headers: dict[bytes, bytes]) -> str | None:
    value = headers.get(b"x-canary-key")
    return value[:_MAX_CANARY_KEY_LENGTH].decode("latin-1") if value else None


def _headers(request: Request, version: Version, queued_s: float, run_s: float) -> list[tuple[bytes, bytes]]:
    return [
        _VERSION_HEADERS[version],
        (b"x-execution-id", request.execution_id.encode()),
        (b"server-timing", b"queue;dur=%.3f, run;dur=%.3f" % (queued_s * 1000, run_s * 1000)),
    ]


def _prefers_async(prefer: bytes) -> bool:
    """Whether a Prefer header (RFC 7240) has `respond-async`."""
    return any(preference.partition(b";")[0].strip().lower() == b"respond-async" for preference in prefer.split(b","))
