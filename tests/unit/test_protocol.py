"""The service's end of a connection: the same bytes come back as from uvicorn's own, however they went in."""

import asyncio
import itertools
import json
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.execute.connections import Connections, Limits
from app.execute.exchange import ClientGone, Endpoint, Exchange
from app.execute.protocol import LaneProtocol
from app.execute.reader import MAX_BYTES
from app.execute.response import Response, headers_in, lines_of
from tests.support import virtual_time

Handler = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
CALL: ContextVar[str] = ContextVar("CALL")
CLIENT = ("127.0.0.1", 50000)
LIMITS = Limits(head_s=60, body_s=60, answer_s=60, unread_bytes=2**30)
WRONG_KEY = b"X-API-Key: wrong\r\n"


class Lane(Endpoint):
    """The endpoint of plain calls: the application that uvicorn runs for all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def begin(self, exchange: Exchange) -> bool:
        """Leaves each call to `serve`."""
        return False

    def admits(self, exchange: Exchange) -> bool:
        return exchange.headers.get(b"x-api-key") != b"wrong"

    async def serve(self, exchange: Exchange) -> None:
        """Answers once the application has; ClientGone ends it as soon as the client disconnects."""
        body = await exchange.body(2**30)
        scope = {
            "type": "http",
            "method": "POST",
            "path": exchange.path,
            "raw_path": exchange.path.encode(),
            "query_string": b"",
            "http_version": "1.1",
            "scheme": exchange.scheme,
            "root_path": "",
            "server": exchange.address,
            "client": CLIENT,
            "headers": list(exchange.headers.items()),
        }
        head: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
                return
            parts.append(message["body"])
            if not message.get("more_body"):
                await exchange.answer((head["status"], lines_of(head["headers"]), parts[0]), tuple(parts[1:]))

        try:
            with exchange:
                await self._app(scope, receive, send)
        except ClientGone:
            pass


class Wire(asyncio.Transport):
    """A transport without a socket: what it was told, and what it has still to tell."""

    def __init__(self) -> None:
        super().__init__()
        self.socket: socket.socket | None = None
        """One that a test gives it, from which nothing is read."""
        self.written = b""
        self.is_paused = False
        self.is_closed = False
        self.is_ended = False
        """Nothing more is written."""
        self.is_aborted = False
        self.unread = 0
        self.on_write: Callable[[], None] | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 8000), "peername": CLIENT, "socket": self.socket}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_ended, "written to after its end"
        self.written += data
        if self.on_write is not None:
            self.on_write()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_ended = True

    def close(self) -> None:
        self.is_closed = self.is_ended = True

    def abort(self) -> None:
        self.is_closed = self.is_ended = self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unread


class Connection:
    """A protocol between a wire and an application."""

    def __init__(
        self,
        kind: type[Any],
        app: Handler,
        keep_alive_s: float = 60,
        limits: Limits = LIMITS,
        connections: Connections | None = None,
    ) -> None:
        config = Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            reset_contextvars=True,
        )
        config.timeout_keep_alive = keep_alive_s  # type: ignore[assignment]  # uvicorn hands it to call_later
        config.load()
        self.state = ServerState()
        self.wire = Wire()
        handed = {"config": config, "server_state": self.state, "app_state": {}}
        if kind is LaneProtocol:
            handed["connections"] = connections or Connections(Lane(app), limits)
        self.protocol = kind(**handed)
        self.protocol.connection_made(self.wire)
        self._unread: deque[bytes] = deque()

    def receive(self, *pieces: bytes) -> None:
        """The client has sent so many pieces; those that the protocol does not want yet wait."""
        self._unread += pieces
        while self._unread and not self.wire.is_paused and not self.wire.is_closed:
            self.protocol.data_received(self._unread.popleft())

    def cycle_of_uvicorn(self) -> Any:
        """The last request that uvicorn has read."""
        return self.protocol._uvicorn and self.protocol._uvicorn.cycle

    async def flush(self) -> bytes:
        """Returns what has been written when nothing more happens by itself, which takes fewer turns of the loop."""
        for _ in range(50):
            await asyncio.sleep(0)
            self.receive()
        return self.wire.written

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)
                self.receive()


async def later(seconds: float) -> None:
    """Returns when timers that are due within `seconds` have fired."""
    is_later = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, is_later.set)
    await is_later.wait()


async def answer(send: Send, response: Response) -> None:
    """Answers by ASGI."""
    status, lines, body = response
    await send({"type": "http.response.start", "status": status, "headers": headers_in(lines)})
    await send({"type": "http.response.body", "body": body})


async def tells(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked, after a few turns of the event loop; at once if the path says `early`.

    It says nothing of the header `Upgrade`, which the service leaves out.
    """
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    for _ in range(3):
        await asyncio.sleep(0)
    seen = {
        **{key: scope[key] for key in ("method", "path", "http_version", "scheme", "root_path", "server", "client")},
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"] if name != b"upgrade"],
        "body": body.decode(),
    }
    content = json.dumps(seen).encode()
    await answer(send, (200, b"content-length: %d\r\n" % len(content), content))


def call(
    body: bytes = b"{}", target: bytes = b"/programs/a/execute", more: bytes = b"", version: bytes = b"1.1"
) -> bytes:
    """An execute call as it goes over the wire."""
    head = b"POST %s HTTP/%s\r\nHost: here\r\nContent-Length: %d\r\n%s\r\n" % (target, version, len(body), more)
    return head + body


CHUNKED_HEAD = b"POST /programs/a/execute HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /pools?x=1 HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n"
REQUESTS = {
    "call": call(),
    "empty": call(b""),
    "large": call(b"x" * (MAX_BYTES - 200)),
    "too large to be read here": call(b"x" * MAX_BYTES),
    "other headers": call(more=b"Content-Type: application/json\r\nX-Canary-Key: K\r\nCookie:  a=b \r\n"),
    "chunked": CHUNKED_HEAD + b"2\r\n{}\r\n1\r\n \r\n0\r\n\r\n",
    "asks first": call(more=b"Expect: 100-continue\r\n"),
    "wants events": call(more=b"Accept: Text/Event-Stream\r\n"),
    "escaped": call(target=b"/programs/%61/execute"),
    "query": call(target=b"/programs/a/execute?b=c"),
    "another path": call(target=b"/programs"),
    "another method": b"PUT" + call()[4:],
    "get": GET,
    "old, but stays": call(more=b"Connection: keep-alive\r\n", version=b"1.0"),
    "upgrade": b"GET / HTTP/1.1\r\nHost: here\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
}
LAST_REQUESTS = {
    "closes": call(more=b"Connection: close\r\n"),
    "closes, empty": call(b"", more=b"Connection: close\r\n"),
    "old": call(version=b"1.0"),
    "no length": b"POST /programs/a/execute HTTP/1.1\r\nHost: here\r\n\r\n",
    "two lengths": call(more=b"Content-Length: 3\r\n"),
    "bad length": call(more=b"").replace(b"Content-Length: 2", b"Content-Length: +2"),
    "length and chunks": call(more=b"Transfer-Encoding: chunked\r\n"),
    "space in target": call(target=b"/programs/a b/execute"),
    "bytes in target": call(target="/programs/ä/execute".encode()),
    "no http": b"\x16\x03\x01 hello\r\n\r\n",
    "half a head": b"POST /programs/a/execute HTTP/1.1\r\nHost",
    "half a body": call(b"1234")[:-2],
}


async def _exchanged(kind: type[Any], pieces: list[bytes], *, at_once: bool) -> tuple[bytes, bool]:
    connection = Connection(kind, tells)
    for piece in pieces:
        connection.receive(piece)
        if not at_once:
            await connection.flush()
    return await connection.flush(), connection.wire.is_ended


def _same(pieces: list[bytes], *, at_once: bool) -> bytes:
    """Returns the answer to these pieces, which must be the same from both protocols."""
    ours = asyncio.run(_exchanged(LaneProtocol, pieces, at_once=at_once))
    assert ours == asyncio.run(_exchanged(HttpToolsProtocol, pieces, at_once=at_once))
    return ours[0]


@pytest.mark.parametrize("name", [*REQUESTS, *LAST_REQUESTS])
def test_each_request_is_answered_as_uvicorn_does(name: str) -> None:
    """Alone, and between two others."""
    request = (REQUESTS | LAST_REQUESTS)[name]
    _same([request], at_once=False)
    if name != "half a body":  # the next call completes it, and garbage follows: uvicorn forgets the good one for that
        _same([call(), request, call()], at_once=False)


@settings(deadline=None)
@given(
    names=st.lists(st.sampled_from([name for name in REQUESTS if name != "upgrade"]), min_size=1, max_size=5),
    last=st.sampled_from([None, *LAST_REQUESTS]),
    cuts=st.lists(st.integers(0, 1000), max_size=12),
    at_once=st.booleans(),
)
def test_no_cut_makes_a_difference(names: list[str], last: str | None, cuts: list[int], *, at_once: bool) -> None:
    """Requests that follow one another, waiting for answers or not, in pieces of any size."""
    stream = b"".join(REQUESTS[name] for name in names)
    ends = {0, len(stream)}
    if last is not None and not at_once:  # uvicorn answers what is wrong instead of what came before it in one piece
        stream += LAST_REQUESTS[last]
        ends.add(len(stream))
    places = sorted({cut * len(stream) // 1000 for cut in cuts} | ends)
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(places)]
    _same(pieces, at_once=at_once)


@pytest.mark.parametrize(
    "pieces",
    [
        [GET + GET[:-2] + b"X: ", call(b"")],
        [GET + GET[:-2] + b"X", call(b"")],
        [b"PUT /early HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(call()), call(), call()],
        [GET[:-2] + b"X: ", call(b""), call()],
    ],
)
def test_what_only_looks_like_a_call_is_none(pieces: list[bytes]) -> None:
    """Since it comes amid another request: nobody smuggles a call past whoever looks at requests before us."""
    _same(pieces, at_once=False)


def test_a_plain_call_never_reaches_uvicorn() -> None:
    """Whole or in pieces; and neither does the one after a request that does."""

    async def run() -> None:
        connection = Connection(LaneProtocol, tells)
        connection.receive(call())
        await connection.flush()
        head, body = call(b"0123456789")[:-10], b"0123456789"
        connection.receive(head, body[:3], body[3:])
        await connection.flush()
        assert connection.cycle_of_uvicorn() is None
        connection.receive(GET)
        await connection.flush()
        served = connection.cycle_of_uvicorn()
        assert served is not None
        connection.receive(call())
        assert (await connection.flush()).count(b"200 OK") == 4
        assert connection.cycle_of_uvicorn() is served

    asyncio.run(run())


def test_calls_that_come_early_wait_and_little_more_is_read() -> None:
    """The client is not let fill the memory with calls while one is answered."""

    async def run() -> None:
        go = asyncio.Event()
        order: list[bytes] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body = (await receive())["body"]
            await go.wait()
            order.append(body[:1])
            await answer(send, (200, b"content-length: 1\r\n", body[:1]))

        connection = Connection(LaneProtocol, app)
        connection.receive(call(b"1"), call(b"2"))
        assert not connection.wire.is_paused
        connection.receive(call(b"3" * 70_000), call(b"4"), GET)
        assert connection.wire.is_paused
        assert len(connection.state.tasks) == 1
        go.set()
        await connection.until(lambda: len(order) == 5)
        assert order == [b"1", b"2", b"3", b"4", b""]
        assert (await connection.flush()).count(b"200 OK") == 5

    asyncio.run(run())


SLOW_PATHS = {"call": [call(b"1")], "get": [GET], "get and call": [GET, call(b"1")]}


@pytest.mark.parametrize("before", SLOW_PATHS.values(), ids=SLOW_PATHS)
@pytest.mark.parametrize("when", ["as it is written", "later"])
def test_what_a_client_sends_before_it_reads_is_answered_once_it_does(before: list[bytes], when: str) -> None:
    """However long that takes, and in order; until then no answer comes on top of the ones that it does not read."""

    async def run() -> None:
        connection = Connection(LaneProtocol, tells, keep_alive_s=0.01)
        for request in before[:-1]:
            connection.receive(request)
            await connection.flush()
        if when == "as it is written":
            connection.wire.on_write = connection.protocol.pause_writing
        connection.receive(before[-1])
        await connection.flush()
        connection.wire.on_write = None
        if when == "later":
            connection.protocol.pause_writing()
        connection.receive(call(b"2"), call(b"3"))
        await connection.flush()
        assert connection.wire.is_paused
        await later(0.05)
        assert (await connection.flush()).count(b"200 OK") == len(before)
        assert not connection.wire.is_closed
        connection.protocol.resume_writing()
        assert (await connection.flush()).count(b"200 OK") == len(before) + 2
        assert [body in connection.wire.written for body in (b'"body": "2"', b'"body": "3"')] == [True, True]
        await connection.until(connection.wire.is_closing)

    virtual_time.run(run())


@pytest.mark.parametrize("path", [b"/programs/a/execute", b"/other"])
def test_an_answer_of_several_parts(path: bytes) -> None:
    """The parts are one body; while the client does not read, all of it counts as unread."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-length", b"6")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in (b"ab", b"cd"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"ef"})

    async def run() -> None:
        connection = Connection(LaneProtocol, app)
        connection.receive(call(target=path))
        assert (await connection.flush()).endswith(b"\r\n\r\nabcdef")
        if path == b"/other":
            return
        connection.protocol.pause_writing()
        connection.receive(call(target=path))
        await connection.flush()
        assert connection.protocol.unread_bytes() > 6
        assert connection.wire.written.count(b"abcdef") == 1
        connection.protocol.resume_writing()
        assert connection.wire.written.count(b"abcdef") == 2
        assert connection.protocol.unread_bytes() == 0

    asyncio.run(run())


def test_a_server_that_ends_answers_what_came_early() -> None:
    """Also where the client has not read the answer before: none that is on its way is cut off."""

    async def run(*, is_slow: bool) -> None:
        connection = Connection(LaneProtocol, tells)
        connection.receive(call(b"1"))
        if is_slow:
            connection.wire.on_write = connection.protocol.pause_writing
            await connection.flush()
            connection.wire.on_write = None
            connection.receive(call(b"2"))
        connection.receive(call(b"3"))
        connection.protocol.shutdown()
        assert not connection.wire.is_closed
        await connection.flush()
        if is_slow:
            connection.protocol.resume_writing()
        assert (await connection.flush()).count(b"200 OK") == 2 + is_slow
        assert connection.wire.written.count(b"connection: close") == 1
        assert connection.wire.is_closed

    for is_slow in (False, True):
        asyncio.run(run(is_slow=is_slow))


@pytest.mark.parametrize("how", ["one by one", "in one piece"])
def test_calls_that_are_answered_at_once(how: str) -> None:
    """As many as fit in one read, each answered before its task has waited for anything: no stack grows with them."""
    count = 2000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await answer(send, (200, b"content-length: %d\r\n" % len(body), body))

    async def run() -> None:
        connection = Connection(LaneProtocol, app)
        calls = [call(b"%04d" % number) for number in range(count)]
        connection.receive(*(calls if how == "one by one" else [b"".join(calls)]))
        await connection.until(lambda: connection.wire.written.count(b"200 OK") == count)
        answers = [part.rpartition(b"\r\n\r\n")[2] for part in connection.wire.written.split(b"HTTP/1.1 ")[1:]]
        assert answers == [b"%04d" % number for number in range(count)]
        assert not connection.state.tasks

    asyncio.run(run())


def test_a_call_has_nothing_of_the_one_before_it() -> None:
    """Each request begins with a fresh context on either path, so no log line carries another call's id."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(CALL.get("none"))
        CALL.set(scope["path"])
        await tells(scope, receive, send)

    async def run() -> None:
        connection = Connection(LaneProtocol, app)
        connection.receive(call(), call(), GET, call())
        await connection.until(lambda: len(seen) == 4)
        await connection.flush()

    asyncio.run(run())
    assert seen == ["none"] * 4


@pytest.mark.parametrize("before", [[], [call()], [GET]])
def test_a_head_that_does_not_end_is_refused(before: list[bytes]) -> None:
    """The service bounds the memory for a head, which needs no key."""

    async def run() -> None:
        connection = Connection(LaneProtocol, tells)
        for request in before:
            connection.receive(request)
            await connection.flush()
        connection.receive(b"GET / HTTP/1.1\r\n", *[b"X: %s\r\n" % (b"x" * 1000)] * 70)
        assert (await connection.flush()).count(b"HTTP/1.1 431 ") == 1
        assert connection.wire.is_ended

    asyncio.run(run())


def test_a_head_that_does_not_end_cuts_no_answer_off() -> None:
    """Earlier requests are answered first; then the connection ends with the reason."""

    async def run() -> None:
        go = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await tells(scope, receive, send)

        connection = Connection(LaneProtocol, app)
        connection.receive(GET, b"GET / HTTP/1.1\r\n", *[b"X: %s\r\n" % (b"x" * 1000)] * 200)
        assert await connection.flush() == b""
        go.set()
        assert (await connection.flush()).startswith(b"HTTP/1.1 200 ")
        assert connection.wire.written.count(b"HTTP/1.1 431 ") == 1
        assert connection.wire.is_ended

    asyncio.run(run())


@pytest.mark.parametrize("how", ["wrong", "silent", "half", "cancelled"])
def test_an_application_that_does_not_answer_leaves_no_client_waiting(how: str) -> None:
    """A problem, and the connection ends, whether it raised, said nothing, stopped halfway or was cancelled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if how == "wrong":
            raise ValueError("wrong")
        if how == "half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        if how == "cancelled":
            await asyncio.Event().wait()

    async def run() -> None:
        connection = Connection(LaneProtocol, app)
        connection.receive(call())
        tasks = list(connection.state.tasks)  # none if the call has been answered already
        await asyncio.sleep(0)
        if how == "cancelled":
            tasks[0].cancel()
        assert (await connection.flush()).startswith(b"HTTP/1.1 500 ")
        assert b"connection: close" in connection.wire.written
        assert b'"code":"internal_error"' in connection.wire.written
        assert connection.wire.is_closed
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("before", [[], [call()], [GET], [GET, call()]])
@pytest.mark.parametrize("when", ["unused", "amid a call", "amid a body", "amid a request"])
def test_a_server_that_ends_answers_what_has_begun(when: str, before: list[bytes]) -> None:
    """And closes the connection with it, at once where nothing has begun."""

    async def run() -> None:
        connection = Connection(LaneProtocol, tells)
        head, body = call(b"{}")[:-2], b"{}"
        for request in before:
            connection.receive(request)
            await connection.flush()
        connection.receive(*{"unused": [], "amid a call": [call()], "amid a body": [head]}.get(when, [GET]))
        for one in list(connection.state.connections):  # as uvicorn does
            one.shutdown()
        if when == "unused":
            assert connection.wire.is_closed
            return
        assert not connection.wire.is_closed
        if when == "amid a body":
            connection.receive(body)
        assert b"connection: close" in await connection.flush()
        assert connection.wire.is_closed

    asyncio.run(run())


def test_an_unused_connection_is_closed() -> None:
    """So long after its last answer, whichever way that went; not while a call is on its way."""

    async def run(*requests: bytes) -> None:
        connection = Connection(LaneProtocol, tells, keep_alive_s=0.05)
        for request in requests:
            connection.receive(request)
            await connection.flush()
        answered_at = asyncio.get_running_loop().time()
        await connection.until(connection.wire.is_closing)
        assert asyncio.get_running_loop().time() - answered_at >= 0.049
        assert connection.wire.written.count(b"200 OK") == len(requests)

    for requests in ((call(),), (call(), call()), (call(), GET), (GET, call()), (call(), GET, call(), call())):
        virtual_time.run(run(*requests))


def test_a_request_that_came_while_the_process_stood_still_is_answered() -> None:
    """The time of the connection is over, and its next request lies unread: it is no longer unused."""

    async def run() -> None:
        connection = Connection(LaneProtocol, tells, keep_alive_s=0.01)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            connection.wire.socket = ours
            connection.receive(call())
            await connection.flush()
            theirs.send(call())
            await later(0.05)
            assert not connection.wire.is_closed
            connection.receive(ours.recv(65536))
            assert (await connection.flush()).count(b"200 OK") == 2
            await connection.until(connection.wire.is_closing)

    virtual_time.run(run())


@pytest.mark.parametrize("before", [[call()], [GET], [call(), GET], [GET, call()]])
@pytest.mark.parametrize("request_", [call(b"{}"), b"PUT" + call(b"{}")[4:]])
def test_a_request_that_is_on_its_way_is_waited_for(before: list[bytes], request_: bytes) -> None:
    """However long the rest of it takes, the connection is not one that nobody uses."""

    async def run() -> None:
        connection = Connection(LaneProtocol, tells, keep_alive_s=0.01)
        for request in before:
            connection.receive(request)
            await connection.flush()
        connection.receive(request_[:-2])
        await later(0.05)
        assert not connection.wire.is_closed
        connection.receive(request_[-2:])
        assert (await connection.flush()).count(b"200 OK") == len(before) + 1
        await connection.until(connection.wire.is_closing)

    virtual_time.run(run())


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before the body is here, and has the connection end."""
    await answer(send, (413, b"content-length: 0\r\nconnection: close\r\n", b""))


@pytest.mark.parametrize("path", [b"/other", b"/programs/any/execute"])
@pytest.mark.parametrize("end", ["the body's", "the client's", "of patience", "of bounds", "the server's"])
def test_what_a_refused_client_still_sends_is_dropped(path: bytes, end: str) -> None:
    """A socket that is closed with bytes unread resets the connection, and the client may never see its answer."""

    async def run() -> None:
        patience = Limits(head_s=60, body_s=0.05 if end == "of patience" else 60, answer_s=60, unread_bytes=2**30)
        connection = Connection(LaneProtocol, refuses, limits=patience)
        size = 2**30 if end == "of bounds" else 2**20
        connection.receive(b"POST %s HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (path, size))
        assert (await connection.flush()).startswith(b"HTTP/1.1 413 ")
        connection.receive(*[bytes(2**18)] * 3)
        assert connection.wire.is_ended
        assert not connection.wire.is_closed
        if end == "the body's":
            connection.receive(bytes(2**18))
        elif end == "the client's":
            assert not connection.protocol.eof_received()  # asyncio closes then
            return
        elif end == "of bounds":
            connection.receive(*[bytes(2**20)] * 64)
        elif end == "the server's":
            connection.protocol.shutdown()
        else:
            await connection.until(connection.wire.is_closing)
        assert connection.wire.is_closed
        assert connection.wire.written.count(b"HTTP/1.1 ") == 1

    asyncio.run(run())


def test_a_server_that_ends_answers_what_has_arrived_unread() -> None:
    """A request that lies in the socket is read and answered; a close before that would reset the client."""

    async def run(request: bytes) -> None:
        connection = Connection(LaneProtocol, tells)
        connection.receive(call(b"1"))
        await connection.flush()
        ours, client = socket.socketpair()
        with ours, client:
            connection.wire.socket = ours
            client.sendall(request)
            connection.protocol.shutdown()
            assert not connection.wire.is_closed
            connection.receive(ours.recv(65536))
        assert (await connection.flush()).count(b"200 OK") == 2
        assert connection.wire.written.count(b"connection: close") == 1
        assert connection.wire.is_closed

    for request in (call(b"2"), GET):
        asyncio.run(run(request))


def test_each_answer_amid_a_drain_says_that_the_connection_closes() -> None:
    """Answers that were due when it began, and later ones; a connection that is idle is left alone."""

    async def run(request: bytes, *, is_before: bool) -> None:
        connections = Connections(Lane(tells), LIMITS)
        connection = Connection(LaneProtocol, tells, connections=connections)
        if is_before:
            connection.receive(request)
        connections.drain()
        assert not connection.wire.is_closed
        if not is_before:
            connection.receive(request)
        written = await connection.flush()
        assert (written.count(b"200 OK"), written.count(b"connection: close")) == (1, 1)
        assert connection.wire.is_closed

    for request in (call(b"1"), GET):
        for is_before in (True, False):
            asyncio.run(run(request, is_before=is_before))
