# Generated from poolshift/client/_async/transport.py by `make client`: change that file, not this one.

"""Calls over httpx, for any number of threads."""

import contextlib
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from poolshift.client import wire
from poolshift.client.calls import Answer, Call, Listing, Page, Pager
from poolshift.client.deadlines import exchange, read
from poolshift.client.errors import AnswerLost, PoolshiftError
from poolshift.client.events import Event, EventReader
from poolshift.client.executions import Execution
from poolshift.client.options import Options
from poolshift.client.resumption import Resumption
from poolshift.client.retries import Attempts
from poolshift.client.wire import httpx, translated

T = TypeVar("T")
_Outcome = TypeVar("_Outcome")


class Transport:
    """Sends calls and waits for their answers."""

    def __init__(self, options: Options, http: httpx.Client) -> None:
        self.options = options
        self._http = http

    @classmethod
    def open(cls, options: Options, *, verify: ssl.SSLContext | bool, max_connections: int) -> "Transport":
        """Makes a transport with connections of its own."""
        settings = wire.settings(options, verify=verify, max_connections=max_connections)
        return cls(options, httpx.Client(**settings))

    def but(self, options: Options) -> "Transport":
        """A transport with other options on the same connections."""
        return Transport(options, self._http)

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call, again if it may be repeated.

        Raises:
            PoolshiftError: the service refuses the call, or does not answer.
        """

        def attempt(attempts: Attempts) -> Answer[T]:
            request = wire.request(self._http, call, wire.timeout(self.options, attempts))
            with translated(attempts):
                raw = exchange(self._http, request, attempts)
            return call.answer(attempts.settled(raw))

        return self._repeat(call, attempt)

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

    def _begin(self, call: Call[Execution], attempts: Attempts) -> httpx.Response:
        request = wire.request(self._http, call, wire.stream_timeout(self.options, attempts))
        with translated(attempts):
            response = self._http.send(request, stream=True)
            if wire.is_stream(response):
                return response
            try:
                raise call.refusal(read(response, attempts))
            finally:
                response.close()


class Items(Generic[T]):
    """The items of a list. Each loop over them gets them again, page by page."""

    def __init__(self, via: Transport, listing: Listing[T]) -> None:
        self._transport = via
        self._listing = listing

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            for item in page.value.items:
                yield item

    def pages(self) -> Iterator[Answer[Page[T]]]:
        """Gets the pages, one after the other."""
        pager = Pager(self._listing)
        while (call := pager.next_call()) is not None:
            page = self._transport.answer(call)
            yield page
            pager.took(page.value)


class Stream:
    """The events of one execution. To close the stream early cancels the execution."""

    def __init__(self, via: Transport, call: Call[Execution]) -> None:
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
                with contextlib.closing(self._read(resumption.call)) as events:
                    for event in events:
                        yield event
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
            with translated(attempts):
                for piece in response.iter_bytes():
                    for event in self._reader.feed(piece):
                        yield event
        finally:
            response.close()
        self._reader.result()
