"""Calls over httpx, for threads."""

import ssl
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar

from poolshift.client import transport
from poolshift.client.calls import Answer, Call, Listing, Page, Pager, RawAnswer
from poolshift.client.errors import AnswerLost, PoolshiftError
from poolshift.client.events import Event, EventReader
from poolshift.client.executions import Execution
from poolshift.client.options import Options
from poolshift.client.resumption import Resumption
from poolshift.client.retries import Attempts
from poolshift.client.transport import httpx

T = TypeVar("T")
_Outcome = TypeVar("_Outcome")


class SyncTransport:
    """Sends calls and waits for their answers."""

    def __init__(self, options: Options, http: httpx.Client) -> None:
        self.options = options
        self._http = http

    @classmethod
    def open(cls, options: Options, *, verify: ssl.SSLContext | bool, max_connections: int) -> "SyncTransport":
        """Makes a transport with connections of its own."""
        return cls(options, httpx.Client(**transport.settings(options, verify=verify, max_connections=max_connections)))

    def but(self, options: Options) -> "SyncTransport":
        """A transport with other options on the same connections."""
        return SyncTransport(options, self._http)

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call, again if it may be repeated.

        Raises:
            PoolshiftError: the service refuses the call, or does not answer.
        """
        return self._repeat(call, lambda attempts: call.answer(attempts.settled(self._exchange(call, attempts))))

    def stream(self, call: Call[Execution]) -> httpx.Response:
        """Begins a stream, again if it may be repeated.

        Raises:
            PoolshiftError: the service refuses the call, or does not answer.
        """
        return self._repeat(call, lambda attempts: self._begin(call, attempts))

    def _repeat(self, call: Call[Any], attempt: Callable[[Attempts], _Outcome]) -> _Outcome:
        attempts = self.options.attempts(call)
        while True:
            try:
                return attempt(attempts)
            except PoolshiftError as error:
                pause_s = attempts.pause_s(error)
            time.sleep(pause_s)

    def _exchange(self, call: Call[Any], attempts: Attempts) -> RawAnswer:
        request = transport.request(self._http, call, transport.timeout(self.options, attempts))
        with _translated(attempts):
            response = self._http.send(request, stream=True)
            try:
                return _read(response, attempts)
            finally:
                response.close()

    def _begin(self, call: Call[Execution], attempts: Attempts) -> httpx.Response:
        request = transport.request(self._http, call, transport.stream_timeout(self.options, attempts))
        with _translated(attempts):
            response = self._http.send(request, stream=True)
            if transport.is_stream(response):
                return response
            try:
                raise call.refusal(_read(response, attempts))
            finally:
                response.close()


class Items(Generic[T]):
    """The items of a list. Each loop over them gets them again, page by page."""

    def __init__(self, via: SyncTransport, listing: Listing[T]) -> None:
        self._transport = via
        self._listing = listing

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.value.items

    def pages(self) -> Iterator[Answer[Page[T]]]:
        """Gets the pages, one after the other."""
        pager = Pager(self._listing)
        while (call := pager.next_call()) is not None:
            page = self._transport.answer(call)
            yield page
            pager.took(page.value)


class Stream:
    """The events of one execution. To close the stream early cancels the execution."""

    def __init__(self, via: SyncTransport, call: Call[Execution]) -> None:
        self._transport = via
        self._call = call
        self._reader = EventReader()
        self._events = self._run()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def close(self) -> None:
        """Ends the stream, and cancels the execution unless it is over."""
        self._events.close()

    def result(self) -> Execution:
        """Reads the rest of the stream and returns the execution.

        Raises:
            PoolshiftError: the program has not succeeded.
        """
        for _ in self._events:
            pass
        return self._reader.result()

    def _run(self) -> Generator[Event, None, None]:
        resumption = Resumption(self._transport.options, self._call)
        while True:
            try:
                yield from self._read(resumption.call)
            except AnswerLost as error:
                pause_s = resumption.pause_s(error, self._reader)
            else:
                return
            self._reader = EventReader(self._reader.last_id)
            time.sleep(pause_s)

    def _read(self, call: Call[Execution]) -> Generator[Event, None, None]:
        attempts = self._transport.options.attempts(call)
        response = self._transport.stream(call)
        try:
            with _translated(attempts):
                for piece in response.iter_bytes():
                    yield from self._reader.feed(piece)
        finally:
            response.close()
        self._reader.result()


def _read(response: httpx.Response, attempts: Attempts) -> RawAnswer:
    """Reads an answer to its end, within the time that is left."""
    pieces = []
    for piece in response.iter_bytes():
        pieces.append(piece)
        if not attempts.left_s():
            raise attempts.timed_out()
    return RawAnswer(response.status_code, response.headers, b"".join(pieces))


@contextmanager
def _translated(attempts: Attempts) -> Iterator[None]:
    try:
        yield
    except httpx.RequestError as error:
        raise transport.no_answer(error, attempts) from error
