"""A service that is slow, dead or wrong: each is an error of its own class that says so."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from poolshift.client import (
    NO_RETRY,
    AnswerLost,
    AnswerTimeout,
    Client,
    Execution,
    NoAnswer,
    Progress,
    Retry,
    ServiceUnreachable,
    UnexpectedAnswer,
)
from tests.client.either import Make
from tests.support.service import free_port

HTTP = b"HTTP/1.1 "
EVENTS = HTTP + b"200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
PROGRESS = b"event: progress\ndata: 1\n\n"
UNKNOWN = "; whether it was done is not known"


def answer(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return HTTP + status + b"\r\n" + headers + b"content-length: %d\r\n\r\n" % len(body) + body


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


class Raw:
    """A server that reads a request and answers with bytes; it counts the requests."""

    def __init__(self, replies: list[bytes], *, stays: bool) -> None:
        self._replies = replies
        self._stays = stays
        self._end = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self._end.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self.requests.append(self._request(connection))
                connection.sendall(self._replies[min(len(self.requests), len(self._replies)) - 1])
                if self._stays:
                    self._end.wait()

    def _request(self, connection: socket.socket) -> bytes:
        """Reads a request and its body, since the kernel resets a connection that is closed with bytes unread."""
        request = b""
        while not _is_whole(request) and (piece := connection.recv(65536)):
            request += piece
        return request

    @contextmanager
    def running(self) -> Iterator["Raw"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._end.set()
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._thread.join()


def raw(*replies: bytes, stays: bool = False) -> contextlib.AbstractContextManager[Raw]:
    return Raw(list(replies), stays=stays).running()


Ask = Callable[[Client], object]


def asks_get(client: Client) -> object:
    return client.programs.get("p")


def asks_execute(client: Client) -> object:
    return client.execute("p", {"a": 1})


def asks_stream(client: Client) -> object:
    return client.stream("p").result()


def asks_list(client: Client) -> object:
    return list(client.programs.list())


ASKS = [asks_get, asks_execute, asks_stream, asks_list]


@pytest.mark.parametrize("ask", ASKS)
def test_nobody_is_there(make_client: Make, ask: Ask) -> None:
    """The request surely did not arrive, so it may be repeated."""
    client = make_client(f"http://127.0.0.1:{free_port()}", retry=NO_RETRY)
    with pytest.raises(ServiceUnreachable, match=r"refused|failed") as raised:
        ask(client)
    assert raised.value.retry_safe


@pytest.mark.parametrize("ask", [asks_get, asks_execute, asks_list])
@pytest.mark.parametrize("sent", [b"", HTTP + b"200 OK\r\n", answer(b"200 OK", b"{" * 100)[:-50]])
def test_an_answer_that_does_not_end(make_client: Make, ask: Ask, sent: bytes) -> None:
    """The call ends after its time; of a change the error says that it may have been made."""
    with raw(sent, stays=True) as server, pytest.raises(AnswerTimeout) as raised:
        ask(make_client(server.url, timeout_s=0.2))
    assert raised.value.detail == "no answer within 0.2 s" + (UNKNOWN if ask is asks_execute else "")
    assert not raised.value.retry_safe
    assert len(server.requests) == 1


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("sent", [b"", HTTP + b"200 OK\r\n", answer(b"200 OK", b"{" * 100)[:-50], b"\0\1\2 garbage"])
def test_a_connection_that_breaks(make_client: Make, ask: Ask, sent: bytes) -> None:
    """A call that may run twice is sent again; an execution is not."""
    with raw(sent) as server, pytest.raises(NoAnswer) as raised:
        ask(make_client(server.url, retry=Retry(2, 0.001)))
    assert isinstance(raised.value, AnswerLost | UnexpectedAnswer)
    is_repeated = ask in (asks_get, asks_list)
    assert len(server.requests) == (2 if is_repeated else 1)
    assert raised.value.attempts == len(server.requests)


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (answer(b"200 OK", b"<html>Hello</html>"), "not one of"),
        (answer(b"200 OK", b"{}"), "not one of"),
        (answer(b"200 OK", b"null"), "not one of"),
        (answer(b"200 OK", b"[" * 100_000), "not one of"),
        (answer(b"200 OK", b"\xff\xfe"), "not one of"),
        (answer(b"200 OK", b"abc", b"content-encoding: gzip\r\n"), "cannot be decoded|not one of"),
        (answer(b"204 No Content", b""), "not one of"),
        (answer(b"302 Found", b"", b"location: http://127.0.0.1:1/login\r\n"), r"\(status 302\)"),
        (answer(b"404 Not Found", b'{"detail": "Not Found"}'), r"status 404: '\{\"detail\": \"Not Found\"\}'"),
        (answer(b"500 Internal Server Error", b"[1]"), "status 500"),
        (answer(b"502 Bad Gateway", b"<h1>Bad\nGateway</h1>"), "status 502: '<h1>Bad Gateway</h1>'"),
    ],
)
def test_something_else_answers(make_client: Make, ask: Ask, reply: bytes, said: str) -> None:
    """A proxy's page, a login, another service: the error shows the beginning."""
    with raw(reply) as server, pytest.raises(UnexpectedAnswer, match=said):
        ask(make_client(server.url, retry=NO_RETRY))


def test_a_stream_that_breaks_off(make_client: Make) -> None:
    """The events come, then an error; the program is not run again, even by a client that repeats calls."""
    with raw(EVENTS + PROGRESS) as server:
        events = iter(make_client(server.url).stream("p", idempotent=True))
        assert next(events).data == 1  # type: ignore[union-attr]
        with pytest.raises(AnswerLost, match="before its last event"):
            next(events)
    assert len(server.requests) == 1


def test_the_events_of_a_job_go_on(make_client: Make) -> None:
    """After a break the client asks for the events after the last one that it has, and its caller notices nothing."""
    execution = b'{"execution_id":"e","program_id":"p","pool_version":"v1","outputs":{"a":1},"duration_ms":1}'
    first = EVENTS + b"id: 1\n" + PROGRESS + b"id: 2\nevent: progress\nda"
    rest = EVENTS + b"id: 2\n" + PROGRESS + b"id: end\nevent: result\ndata: %s\n\n" % execution
    with raw(first, EVENTS, rest) as server:
        events = list(make_client(server.url, retry=Retry(3, 0.001)).jobs.events("e"))
    assert [type(event) for event in events] == [Progress, Progress, Execution]
    asked = [b"last-event-id: 1" in request.lower() for request in server.requests[:3]]
    assert asked == [False, True, True]


def test_an_answer_after_some_that_failed(make_client: Make) -> None:
    """The call succeeds, and nobody notices."""
    problem = b'{"code": "pool_overloaded", "detail": "full", "status": 503, "retry_safe": true}'
    shed = answer(b"503 Service Unavailable", problem, b"retry-after: 0\r\nconnection: close\r\n")
    execution = b'{"execution_id":"e","program_id":"p","pool_version":"v1","outputs":{"a":1},"duration_ms":1}'
    with raw(shed, shed, answer(b"200 OK", execution)) as server:
        client = make_client(server.url, retry=Retry(3, 0.001))
        assert client.execute("p").outputs == {"a": 1}
    assert len(server.requests) == 3


def test_the_key_goes_along(make_client: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an argument, or in the environment; and it is not shown."""
    monkeypatch.setenv("POOLSHIFT_API_KEY", "psk_environment")
    with raw(answer(b"200 OK", b'{"status": "ok"}', b"connection: close\r\n")) as server:
        make_client(server.url).health()
        client = make_client(server.url, api_key="psk_argument")
        client.health()
    assert b"authorization: Bearer psk_environment" in server.requests[0].replace(b"A", b"a", 1)
    assert b"Bearer psk_argument" in server.requests[1]
    assert "psk_" not in repr(client)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "http://a:b", "http://a/?b=c", "http://u:p@a"])
def test_an_address_that_is_none(make_client: Make, url: str) -> None:
    """The client refuses it at once, without showing a password."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - of several messages
        make_client(url)
    assert "u:p" not in str(raised.value)


def test_values_that_no_request_can_have(make_client: Make) -> None:
    """They are refused before anything is sent."""
    client = make_client("http://127.0.0.1:1")
    for wrong in ({"a": float("nan")}, {"a": "\ud800"}):
        with pytest.raises(ValueError):  # noqa: PT011 - of Python's JSON
            client.execute("p", wrong)
    with pytest.raises(TypeError):
        client.execute("p", {"a": object()})
    for name in ("", ".", ".."):
        with pytest.raises(ValueError, match="not an id"):
            client.programs.get(name)
    with pytest.raises(ValueError, match="1 item at least"):
        client.programs.list(limit=0)
