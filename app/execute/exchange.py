"""One execute call: its request, all that becomes known of it, and the way back to its client.

The endpoint knows `Exchange` alone. A plain call has a `ConnectionExchange`, made by the connection itself
(`app.execute.protocol`); streams, and all else that uvicorn has parsed, have an `AsgiExchange`.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import structlog
from mypy_extensions import mypyc_attr
from starlette.types import Message, Receive, Scope, Send

from app.access.auth import Principal
from app.execute.call_head import FORCED_VERSION, CallHead
from app.execute.envelopes import Envelope
from app.execute.response import CLOSE, Response, Rest, headers_in, lines_of, problem_lines
from app.execute.uvicorn_adapter import STATUS_LINE, ServerState, default_headers
from app.problems import Problem, internal_error
from common.tasks import TaskOwner
from pools.calls import Call, Program, Result
from poolshift.worker.tracing.traceparent import Carried, trace_id_of
from routing.catalog.idempotency import KeyedCall
from routing.router import Route, Run
from routing.telemetry.call_trace import CallTrace
from routing.versions import Version

Address = tuple[str, int | None]
"""A host and a port, or the path of a socket."""

_perf_counter: Final = time.perf_counter
NO_REVISION: Final = -1
_TASK_NAME: Final = "execute"
_FAILURE: Final = internal_error().body()
_NO_ANSWER: Final[Response] = (
    500,
    problem_lines(internal_error(), len(_FAILURE)) + CLOSE,
    _FAILURE,
)
_log = structlog.stdlib.get_logger("poolshift.http")


class _ServerLines:
    """The lines of the headers that the server puts on every answer, joined once for each list of them."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Returns the lines of a list that nobody changes."""
        if headers is not self._headers:
            self._headers = headers
            self._lines = lines_of(headers)
        return self._lines


_server_lines: Final = _ServerLines()
"""uvicorn makes another list each second."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Exchange:
    """An execute call from its request to its answer. An error at any point finds here what its answer needs.

    `with exchange:` is a scope that ends with ClientGone as soon as the client disconnects.
    """

    def __init__(self, head: CallHead, address: Address | None, scheme: str) -> None:
        """`address` is the service's own."""
        self.head = head
        self.path = head.path
        self.headers = head.headers
        self.operation = head.operation
        self.address = address
        self.scheme = scheme
        self.principal: Principal | None = None
        """The sender, once its key has been looked at."""
        self.keys_revision = NO_REVISION
        """The revision of the keys by which the headers told `principal`; `NO_REVISION` if something else told it."""
        self.began = 0.0
        """The time of `time.perf_counter` at which it began: the event loop's clock counts whole milliseconds."""
        self.execution_id = ""
        self.trace: CallTrace | None = None
        """The trace, if the call is sampled."""
        self.traceparent: str | None = None
        """The client's traceparent, unchanged, if the call is not sampled."""
        self.carried: Carried | None = None
        """The headers that travel beside the traceparent."""
        self.received = 0
        """Bytes of the body."""
        self.route: Route | None = None
        self.program: Program | None = None
        self.call: Call | None = None
        self.is_item = False
        self.is_synthetic = False
        """True for a test's call, which is in no organic figure however it ends."""
        """Set for an item of a batch, whose request is the batch's."""
        self.is_counted = False
        """True once the router counts the call; the endpoint counts one that fails before."""
        self.keyed: KeyedCall | None = None
        """The call with its `Idempotency-Key`, once it is certain that it is the first."""
        self.is_retry_safe = False
        """Set if the answer is a problem after which the same call may be sent again."""
        self.error: str | None = None
        """The code of the answer, if it is an error."""
        self.envelope: Envelope | None = None
        """The body, once it has been read."""
        self.task: asyncio.Task[Any] | None = None
        """Runs the endpoint, unless the call is plain."""
        self._is_client_gone = False
        self._is_cancellable = False

    @property
    def owner(self) -> str | None:
        """The owner of what the call makes: its session and its job."""
        return None if self.principal is None else self.principal.caller.owner

    @property
    def trace_id(self) -> str | None:
        """The trace that its log lines belong to."""
        if self.trace is not None:
            return self.trace.trace_id
        return trace_id_of(self.traceparent)

    # --- the request

    async def body(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            Problem: `payload_too_large`, as soon as that is known.
            ClientGone: the client has disconnected before its end.
        """
        raise NotImplementedError

    def forced_version(self) -> Version | None:
        """The version that the client asks for.

        Raises:
            Problem: `invalid_request`, for a version that nobody knows.
        """
        header = self.headers.get(FORCED_VERSION)
        if header is None:
            return None
        value = header.decode("latin-1")
        try:
            return Version(value.lower())
        except ValueError:
            raise Problem("invalid_request", f"X-Pool-Version: {value!r} is neither v1 nor v2") from None

    # --- the answer

    async def answer(self, response: Response, rest: Rest = ()) -> None:
        """Answers, with `rest` behind the response's body; does nothing if nobody is there any more."""
        raise NotImplementedError

    # --- the client

    def client_gone(self) -> None:
        """Cancels the call, if it runs: its client has disconnected."""
        self._is_client_gone = True
        if self._is_cancellable:
            assert self.task is not None
            self.task.cancel()

    def __enter__(self) -> Self:
        if self._is_client_gone:
            raise ClientGone
        self._is_cancellable = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_cancellable = False
        if self._is_client_gone and kind is asyncio.CancelledError:
            assert self.task is not None
            self.task.uncancel()
            raise ClientGone from None


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have small ones
class Endpoint:
    """The endpoint of execute calls, as a connection knows it."""

    async def serve(self, exchange: Exchange) -> None:
        """Answers a call, whatever becomes of it."""
        raise NotImplementedError

    def begin(self, exchange: "ConnectionExchange") -> bool:
        """Begins a call that waits for nothing but its pool, and answers it by itself. Returns False for any other."""
        raise NotImplementedError

    def ended(self, exchange: "ConnectionExchange", outcome: Result | Exception) -> None:
        """Answers a call that has begun, with what has come of it."""
        raise NotImplementedError

    def left(self, exchange: "ConnectionExchange") -> None:
        """Ends a call that has begun, and whose client has gone."""
        raise NotImplementedError

    def admits(self, exchange: Exchange) -> bool:
        """Tells if the sender of a call may run programs, before its body is here."""
        raise NotImplementedError


class ConnectionExchange(Exchange):
    """A plain call, which the connection reads and whose answer it writes. The router tells it how the call ends."""

    def __init__(
        self,
        head: CallHead,
        address: Address | None,
        server: ServerState,
        tasks: set[asyncio.Task[None]],
        on_answer: Callable[[bytes, Rest], None],
    ) -> None:
        """Calls `on_answer` once with the answer's parts, unless the client goes; the server waits for `tasks`."""
        super().__init__(head, address, "http")
        self.keep_alive = True
        """Set if the connection stays open for other requests."""
        self.run: Run | None = None
        """The call's run, if it has begun without a task, until it is answered or its client has gone."""
        self._endpoint: Endpoint | None = None
        self._body = b""
        self._server = server
        self._tasks = tasks
        self._on_answer: Callable[[bytes, Rest], None] | None = on_answer

    def begin(self, body: bytes, endpoint: Endpoint, loop: asyncio.AbstractEventLoop, *, at_once: bool) -> None:
        """Has the endpoint answer. The upload is no part of the call's time.

        With `at_once` a plain call goes to its worker before this returns, without another turn of the event loop. It
        may even be answered, so no other request may lie behind this one.
        """
        self._body = body
        self._endpoint = endpoint
        self.began = _perf_counter()
        if at_once:
            self._begin(endpoint, loop)
        else:
            loop.call_soon(self._begin, endpoint, loop)

    def ended(self, outcome: Result | Exception) -> None:
        """Takes the outcome of a call that has begun without a task."""
        assert self._endpoint is not None
        self._endpoint.ended(self, outcome)

    def _begin(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        """Begins a plain call, or serves another in a task that the server waits for."""
        if self._is_client_gone or endpoint.begin(self):
            return
        # Not by `loop.create_task`, which would print a name of its own for each.
        # In a context of its own, or else a pipelined request would inherit that of the call before it.
        context = contextvars.Context()
        task = self.task = asyncio.Task(self._run(endpoint), loop=loop, name=_TASK_NAME, context=context)
        self._tasks.add(task)

    async def _run(self, endpoint: Endpoint) -> None:
        try:
            await endpoint.serve(self)
        except Exception:
            _log.exception("unforeseen error")
        finally:
            if self.task is not None:
                self._tasks.discard(self.task)
                self.task = None  # they would hold each other
            self.end()

    def whole_body(self, max_bytes: int) -> bytes:
        """The body, which is here. Raises Problem, `payload_too_large`."""
        body = self._body
        self.received = len(body)
        if len(body) > max_bytes:
            raise too_large(max_bytes)
        return body

    async def body(self, max_bytes: int) -> bytes:
        return self.whole_body(max_bytes)

    async def answer(self, response: Response, rest: Rest = ()) -> None:
        self.write(response, rest)

    def client_gone(self) -> None:
        self._on_answer = None
        if self.run is None:
            super().client_gone()
        else:
            assert self._endpoint is not None
            self._endpoint.left(self)
            self.run = None

    def end(self) -> None:
        """Answers with an internal error if there is no answer yet, so that no client is left waiting."""
        if self._on_answer is not None:
            self.write(_NO_ANSWER)

    def write(self, response: Response, rest: Rest = ()) -> None:
        """Answers, with `rest` behind the response's body; does nothing if nobody is there any more."""
        self.run = None  # they would hold each other
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is None:
            return
        status, lines, body = response
        if status >= 400 and CLOSE in lines:  # no other answer has this header
            self.keep_alive = False
        elif not self.keep_alive:
            lines += CLOSE
        server_lines = _server_lines.of(default_headers(self._server))
        on_answer(b"".join((STATUS_LINE[status], server_lines, lines, b"\r\n", body)), rest)


class AsgiExchange(Exchange):
    """A call that uvicorn has parsed: a stream, or one whose bytes are not plainly a call's."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, tasks: TaskOwner) -> None:
        """`tasks` owns the task that waits for the client to disconnect."""
        super().__init__(CallHead(scope["path"], scope["headers"]), scope["server"], scope["scheme"])
        self.began = _perf_counter()
        self.send = send
        """Sends the messages of a stream."""
        self._receive = receive
        self._tasks = tasks
        self._watcher: asyncio.Task[Any] | None = None
        self._body: bytes | None = None

    async def body(self, max_bytes: int) -> bytes:
        if self._body is None:
            self._body = await self._read_body(max_bytes)
        return self._body

    async def _read_body(self, max_bytes: int) -> bytes:
        body = bytearray()
        size = int(self.headers.get(b"content-length", b"0"))  # uvicorn has seen that it is a number
        more_body = True
        while size <= max_bytes:
            if not more_body:
                return bytes(body)
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message["body"]
            size = self.received = len(body)
            more_body = message.get("more_body", False)
        raise too_large(max_bytes)

    async def answer(self, response: Response, rest: Rest = ()) -> None:
        status, lines, body = response
        await self.send({"type": "http.response.start", "status": status, "headers": headers_in(lines)})
        for part in rest:
            await self.send({"type": "http.response.body", "body": body, "more_body": True})
            body = bytes(part)
        await self.send({"type": "http.response.body", "body": body})

    def __enter__(self) -> Self:
        super().__enter__()
        self.task = asyncio.current_task()
        self._watcher = self._tasks.start(self._watch())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._watcher is not None
        self._watcher.cancel()
        try:
            super().__exit__(kind, error, traceback)
        finally:
            self.task = None  # they would hold each other

    async def _watch(self) -> None:
        message: Message = {"type": "http.request"}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self.client_gone()


def too_large(max_bytes: int) -> Problem:
    """The problem of a body over `max_bytes`."""
    return Problem("payload_too_large", f"the body is over {max_bytes} bytes (MAX_BODY_BYTES)")
