"""Bytes that mean harm, cut at every position: nothing is smuggled, hidden, lost or held without bound."""

import asyncio
import itertools
import logging
import socket
import tracemalloc
from collections.abc import Callable

import pytest
from starlette.types import Receive, Scope, Send

from app.execute.connections import GRACE_S, Connections, Limits
from app.execute.protocol import LaneProtocol
from app.execute.reader import MAX_HEAD_LINES
from tests.support import virtual_time
from tests.unit.test_protocol import CHUNKED_HEAD, GET, WRONG_KEY, Connection, Lane, answer, call, later

pytestmark = pytest.mark.thorough

ROLLBACK = b"POST /rollout/rollback HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"
"""The request that somebody tries to smuggle."""
CHUNKED_ROLLBACK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(ROLLBACK), ROLLBACK)
TARGETS = {"lane": b"/programs/a/execute", "uvicorn": b"/programs"}


class Seen:
    """An application that notes what it is asked, and answers with the body's length."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.headers: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message.get("more_body", False)
        self.requests.append((scope["path"], body))
        self.headers.append(dict(scope["headers"]))
        await answer(send, (200, LENGTH, b""))


async def sent(stream: bytes, cut: int | None = None) -> tuple[Seen, bytes]:
    """The requests that the application has seen of a stream in two pieces, or byte by byte, and the answers."""
    seen = Seen()
    connection = Connection(LaneProtocol, seen)
    pieces = [stream[:cut], stream[cut:]] if cut is not None else [stream[i : i + 1] for i in range(len(stream))]
    for piece in pieces:
        if piece:
            connection.receive(piece)
            await asyncio.sleep(0)
    for _ in range(2):  # an answer that leaves may begin the next request
        await connection.until(lambda: not connection.state.tasks or connection.wire.is_closed)
        await asyncio.sleep(0)
    if connection.wire.is_closed:
        connection.protocol.connection_lost(None)
    return seen, connection.wire.written


def every_cut(stream: bytes, check: Callable[[Seen, bytes], None]) -> None:
    """Sends a stream whole, cut at each position, and byte by byte."""

    async def run() -> None:
        for cut in [None, *range(len(stream))]:
            check(*await sent(stream, cut))

    asyncio.run(run())


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"anything"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_nothing_is_smuggled_by_an_upgrade(target: bytes, protocol: bytes, framing: str) -> None:
    """The body of a request that asks for another protocol is its body, and the request behind it is the next."""
    upgrade = b"Connection: keep-alive, Upgrade\r\nUpgrade: %s\r\n" % protocol
    if framing == "length":
        stream = call(ROLLBACK, target, upgrade)
    else:
        head = CHUNKED_HEAD.replace(b"/programs/a/execute", target)
        stream = head[:-2] + upgrade + b"\r\n" + CHUNKED_ROLLBACK

    def check(seen: Seen, written: bytes) -> None:
        assert seen.requests == [(target.decode(), ROLLBACK), ("/pools", b"")]
        assert written.count(b"HTTP/1.1 200 OK") == 2
        assert all(b"upgrade" not in headers for headers in seen.headers)

    every_cut(stream + GET, check)


@pytest.mark.parametrize("behind", [GET, call(), ROLLBACK])
def test_a_request_behind_an_upgrade_is_not_lost(behind: bytes) -> None:
    """Also if the one with the Upgrade has no body."""
    upgrade = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"

    def check(seen: Seen, written: bytes) -> None:
        assert len(seen.requests) == 2
        assert written.count(b"HTTP/1.1 200 OK") == 2

    every_cut(upgrade + behind, check)


@pytest.mark.parametrize("request_", [b"CONNECT here:80 HTTP/1.1\r\nHost: here\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n"])
def test_what_is_another_protocol_is_refused(request_: bytes) -> None:
    """The connection ends with 400, and nothing behind it is read."""

    def check(seen: Seen, written: bytes) -> None:
        assert seen.requests == []
        assert written.count(b"HTTP/1.1 400 ") == written.count(b"HTTP/1.1 ") == 1

    every_cut(request_ + ROLLBACK, check)


@pytest.mark.parametrize("last_chunk", [b"0\r\n", b"0;a=b\r\n", b"000\r\n"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_trailers_open_nothing(target: bytes, last_chunk: bytes) -> None:
    """A key, a version or a preference behind the body is no header, of this request or of the next."""
    trailers = b"X-API-Key: admin\r\nX-Pool-Version: v2\r\nPrefer: respond-async\r\nAuthorization: Bearer k\r\n\r\n"
    head = CHUNKED_HEAD.replace(b"/programs/a/execute", target)

    def check(seen: Seen, written: bytes) -> None:
        assert seen.requests == [(target.decode(), b"{}"), ("/pools", b"")]
        assert [sorted(headers) for headers in seen.headers] == [[b"host", b"transfer-encoding"], [b"accept", b"host"]]
        assert written.count(b"HTTP/1.1 200 OK") == 2

    every_cut(head + b"2\r\n{}\r\n" + last_chunk + trailers + GET, check)


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n{}\r\n0\r\n\r\n",
        b"2\n{}\r\n0\r\n\r\n",
        b"2 \r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nX\n\r\n",
        b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_chunks_that_make_no_sense_end_the_connection(body: bytes) -> None:
    """Nothing behind them is a request: whoever reads them otherwise would see another one there."""

    def check(seen: Seen, written: bytes) -> None:
        assert [path for path, _ in seen.requests] in ([], ["/programs/a/execute"])
        assert b"HTTP/1.1 400 " in written

    every_cut(CHUNKED_HEAD + body + ROLLBACK, check)


@pytest.mark.parametrize("good", [call(), GET, CHUNKED_HEAD + b"2\r\n{}\r\n0\r\n\r\n"], ids=["call", "get", "chunks"])
@pytest.mark.parametrize("garbage", [b"\0", b"\x16\x03\x01", b"GARBAGE\r\n\r\n", b"G /\0 HTTP/1.1\r\n\r\n"])
def test_garbage_behind_a_good_request_costs_it_nothing(good: bytes, garbage: bytes) -> None:
    """The good requests are answered first, then the garbage, and the connection ends."""

    def check(seen: Seen, written: bytes) -> None:
        assert len(seen.requests) == 3
        assert [line.split()[1] for line in written.split(b"\n") if line.startswith(b"HTTP/1.1 ")] == [
            b"200",
            b"200",
            b"200",
            b"400",
        ]

    every_cut(good * 3 + garbage, check)


def test_garbage_behind_requests_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """However many requests are before it."""
    with caplog.at_level(logging.WARNING):
        seen, written = asyncio.run(sent(GET * 40 + b"\0" * 1000, 0))
    assert len(seen.requests) == 40
    assert written.count(b"HTTP/1.1 200 OK") == 40
    assert [record.exc_info for record in caplog.records] == [None]


# --- who is asked for a key


@pytest.mark.parametrize("body", [call()[-2:], b"1" * 100_000], ids=["small", "large"])
def test_a_stranger_is_answered_before_his_body_is_here(body: bytes) -> None:
    """As soon as his head is; and if he then sends what he has announced, it is no request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, (401 if (b"x-api-key", b"wrong") in scope["headers"] else 200, LENGTH, b""))

    async def run() -> None:
        whole = call(body, more=WRONG_KEY)
        head = whole[: -len(body)]
        for cut in range(1, len(head)):
            connection = Connection(LaneProtocol, app)
            connection.receive(head[:cut], head[cut:])
            assert (await connection.flush()).startswith(b"HTTP/1.1 401 ")
            connection.receive(body, call())
            assert (await connection.flush()).count(b"HTTP/1.1 200 ") == 1

    asyncio.run(run())


def test_the_body_of_a_stranger_is_not_read_for_ever() -> None:
    """The service drops the bytes that follow the answer, and ends the connection after 64 MiB of them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, (401, LENGTH, b""))

    async def run() -> int:
        connection = Connection(LaneProtocol, app)
        connection.receive(b"POST /programs HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000000\r\n\r\n")
        await connection.flush()
        for count in range(1000):
            if connection.wire.is_closed:
                return count
            connection.receive(b"1" * 1_000_000)
        return -1

    assert 60 < asyncio.run(run()) < 70


LENGTH = b"content-length: 0\r\n"

# --- who leaves


async def _waits(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


RUNNING = {
    "call": call(),
    "get": GET,
    "chunks": CHUNKED_HEAD + b"2\r\n{}\r\n0\r\n\r\n",
    "closes": call(more=b"Connection: close\r\n"),
}


PLAIN = RUNNING["call"], RUNNING["closes"]
"""Calls that the lane runs, which is told of its client's end by a cancellation."""


@pytest.mark.parametrize("running", RUNNING.values(), ids=RUNNING)
@pytest.mark.parametrize("behind", [b"", b"X", b"\0", GET, call(), GET * 20, call() * 20])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_sent_behind_a_request_does_not_hide_that_the_client_left(
    running: bytes, behind: bytes, *, at_once: bool
) -> None:
    """The connection is read on, so that its end is seen; the request is told at once."""

    async def run() -> None:
        ended: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                if running in PLAIN:
                    await asyncio.Event().wait()
                await _waits(scope, receive, send)
            finally:
                ended.append(scope["path"])

        connection = Connection(LaneProtocol, app)
        connection.receive(*([running + behind] if at_once else [running, behind][: 1 + bool(behind)]))
        await connection.flush()
        assert not connection.wire.is_paused
        assert ended == []
        connection.protocol.connection_lost(None)
        await connection.until(lambda: len(ended) == 1)
        assert await connection.flush() == b""
        assert not connection.state.tasks

    asyncio.run(run())


# --- who is slow


def limits(**given: float) -> Limits:
    """Limits that no test reaches but those given."""
    usual = {"head_s": 60.0, "body_s": 60.0, "answer_s": 60.0, "unread_bytes": 2**30} | given
    return Limits(
        head_s=usual["head_s"],
        body_s=usual["body_s"],
        answer_s=usual["answer_s"],
        unread_bytes=int(usual["unread_bytes"]),
    )


UNFINISHED = {
    "nothing": (b"", b""),
    "a head": (b"GET / HTTP/1.1\r\nX: ", b"HTTP/1.1 408 "),
    "a call's head": (call()[:40], b"HTTP/1.1 408 "),
    "a call's body": (call()[:-1], b"HTTP/1.1 408 "),
    "another body": (call(target=b"/programs")[:-1], b"HTTP/1.1 408 "),
    "chunks": (CHUNKED_HEAD + b"2\r\n{", b"HTTP/1.1 408 "),
}


@pytest.mark.parametrize(("before", "answered"), [(b"", 0), (call(), 1), (GET, 1)], ids=["first", "call", "get"])
@pytest.mark.parametrize("name", UNFINISHED)
def test_a_request_that_does_not_arrive_is_ended(name: str, before: bytes, answered: int) -> None:
    """A head or a body that exceeds its time gets 408, unless no request has begun."""
    begun, told = UNFINISHED[name]

    async def run() -> None:
        connection = Connection(LaneProtocol, Seen(), keep_alive_s=1, limits=limits(head_s=0.01, body_s=0.01))
        connection.receive(*[piece for piece in (before, begun) if piece])
        await connection.until(connection.wire.is_closing)
        assert connection.wire.written.count(b"HTTP/1.1 200 ") == answered
        assert (b"HTTP/1.1 408 " in connection.wire.written) == bool(told)

    virtual_time.run(run())


def test_a_request_in_time_is_not_ended() -> None:
    """The time limit ends with the request's last byte, however long the answer takes."""

    async def run() -> None:
        go = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await answer(send, (200, LENGTH, b""))

        whole = ([call()], [call()[:-1], b"}"], [call()[:9], call()[9:]], [GET], [CHUNKED_HEAD, b"0\r\n\r\n"])
        connections = [Connection(LaneProtocol, app, limits=limits(head_s=0.01, body_s=0.01)) for _ in whole]
        for connection, pieces in zip(connections, whole, strict=True):
            connection.receive(*pieces)
        await later(2.1)
        assert not any(connection.wire.is_closed for connection in connections)
        go.set()
        for connection in connections:
            assert (await connection.flush()).startswith(b"HTTP/1.1 200 ")

    virtual_time.run(run())


@pytest.mark.parametrize("line", [b"a:b\r\n", b"abcdefghij: 0123456789\r\n", b"x" * 100])
def test_a_slow_head_costs_little_memory(line: bytes) -> None:
    """In pieces of two bytes, up to the bound; then it is refused."""

    async def run() -> int:
        connection = Connection(LaneProtocol, Seen())
        connection.receive(b"GET / HTTP/1.1\r\n")
        tracemalloc.start()
        begun = tracemalloc.get_traced_memory()[0]
        pairs = line * (70_000 // len(line))
        for place in range(0, len(pairs), 2):
            connection.protocol.data_received(pairs[place : place + 2])
            if connection.wire.is_closed:
                break
        used = tracemalloc.get_traced_memory()[1] - begun
        tracemalloc.stop()
        assert (await connection.flush()).startswith(b"HTTP/1.1 431 ")
        return used

    assert asyncio.run(run()) < 300_000


@pytest.mark.parametrize(("count", "status"), [(MAX_HEAD_LINES - 4, b"200"), (MAX_HEAD_LINES, b"431")])
def test_a_head_has_so_many_lines(count: int, status: bytes) -> None:
    async def run() -> bytes:
        connection = Connection(LaneProtocol, Seen())
        connection.receive(call(more=b"a:b\r\n" * count))
        return await connection.flush()

    assert asyncio.run(run()).startswith(b"HTTP/1.1 " + status)


async def _unread(connections: Connections, size: int) -> Connection:
    """A connection whose client does not read an answer of so many bytes."""
    connection = Connection(LaneProtocol, Seen(), connections=connections)
    connection.receive(call())
    await connection.flush()
    connection.wire.unread = size
    connection.protocol.pause_writing()
    return connection


@pytest.mark.parametrize("then", ["nothing", "little", "much"])
def test_an_answer_that_is_not_read_is_dropped(then: str) -> None:
    """After its limit, unless the client has read a good part of it meanwhile."""

    async def run() -> None:
        connections = Connections(Lane(Seen()), limits(answer_s=0.1))
        connection = await _unread(connections, 10_000_000)
        connection.wire.unread -= {"nothing": 0, "little": 1000, "much": 1_000_000}[then]
        await later(1.2)
        assert connection.wire.is_aborted == (then != "much")
        if then == "much":
            await connection.until(lambda: connection.wire.is_aborted)

    virtual_time.run(run())


def test_answers_that_are_not_read_take_so_much_memory_together() -> None:
    """Over the bound the oldest go, after a moment's grace; those that are read meanwhile stay."""

    async def run() -> None:
        connections = Connections(Lane(Seen()), limits(unread_bytes=100))
        slow = [await _unread(connections, 30) for _ in range(6)]
        reads = slow[1]
        reads.wire.unread = 0
        reads.protocol.resume_writing()
        await later(GRACE_S + 0.2)
        assert [one.wire.is_aborted for one in slow] == [True, False, True, False, False, False]

    virtual_time.run(run())


# --- who comes when descriptors are scarce


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that is asked nothing."""
    raise NotImplementedError


def test_the_oldest_that_wait_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle and unfinished ones, by the time of their last answer; never one whose request is being answered."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 256))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        if body == b"run":
            await asyncio.Event().wait()
        await answer(send, (200, LENGTH, b""))

    async def run() -> None:
        connections = Connections(Lane(app), limits())
        busy = [Connection(LaneProtocol, app, connections=connections) for _ in range(2)]
        busy[0].receive(call(b"run"))
        busy[1].receive(call(b"run", target=b"/programs"))
        waiting = [Connection(LaneProtocol, app, connections=connections) for _ in range(4)]
        waiting[0].receive(call())
        waiting[1].receive(call()[:-1])
        waiting[2].receive(GET[:-1])
        for one in (*busy, *waiting):
            await one.flush()
        closed = []
        for age, one in enumerate(waiting):
            one.protocol.waits_since = 100.0 - age
        for descriptor in (223, 224, 50, 51):  # the last two are those of the connections that were closed
            newcomer = Connection(LaneProtocol, app, connections=connections)
            newcomer.protocol.waits_since = 200.0
            connections.opened(newcomer.protocol, descriptor)
            closed.append([one.wire.is_closed for one in waiting])
            for one in waiting:
                if one.wire.is_closed:
                    connections.lost(one.protocol)
        assert closed == [
            [False, False, False, False],
            [False, False, True, True],
            [False, False, True, True],
            [True, True, True, True],
        ]
        assert not any(one.wire.is_closed for one in busy)
        connections.opened(newcomer.protocol, 100)
        assert not newcomer.wire.is_closed

    asyncio.run(run())


def test_a_request_that_has_just_arrived_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection has been idle for longest, but its client would see a reset."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 256))

    async def run() -> None:
        connections = Connections(Lane(nothing), limits())
        pairs = [socket.socketpair() for _ in range(4)]
        waiting = [Connection(LaneProtocol, nothing, connections=connections) for _ in pairs]
        for age, (one, (_, server)) in enumerate(zip(waiting, pairs, strict=True)):
            one.wire.socket = server
            one.protocol.waits_since = 100.0 + age
        pairs[0][0].send(GET)
        pairs[1][0].close()
        newcomer = Connection(LaneProtocol, nothing, connections=connections)
        newcomer.protocol.waits_since = 200.0
        connections.opened(newcomer.protocol, 226)
        assert [one.wire.is_closed for one in waiting] == [False, True, True, True]
        for end in itertools.chain(*pairs):
            end.close()

    asyncio.run(run())


def test_the_first_of_a_burst_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that came in the same millisecond go in the order in which they came."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 256))

    async def run() -> None:
        connections = Connections(Lane(nothing), limits())
        burst = [Connection(LaneProtocol, nothing, connections=connections) for _ in range(64)]
        for one in burst:
            one.protocol.waits_since = 100.0
            connections.opened(one.protocol, 50)
        newcomer = Connection(LaneProtocol, nothing, connections=connections)
        newcomer.protocol.waits_since = 100.0
        connections.opened(newcomer.protocol, 255)
        closed = [one.wire.is_closed for one in burst]
        assert any(closed)
        assert closed == sorted(closed, reverse=True)
        assert not newcomer.wire.is_closed

    asyncio.run(run())


def test_no_burst_of_newcomers_takes_all_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection that is closed makes room for a newcomer, whose descriptor then says nothing of scarcity."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (128, 128))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, (200, LENGTH, b""))

    async def run() -> None:
        connections = Connections(Lane(app), limits())
        taken: dict[int, Connection] = {}
        highest = 0
        for _ in range(1000):
            newcomer = Connection(LaneProtocol, app, connections=connections)
            descriptor = next(number for number in range(40, 129) if number not in taken)
            highest = max(highest, descriptor)
            taken[descriptor] = newcomer
            connections.opened(newcomer.protocol, descriptor)
            for number, one in list(taken.items()):
                if one.wire.is_closed:
                    connections.lost(one.protocol)
                    del taken[number]
        assert highest < 120

    asyncio.run(run())
