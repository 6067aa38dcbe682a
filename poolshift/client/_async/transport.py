"""Calls over httpx, for asyncio."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from poolshift.client import wire
from poolshift.client.calls import Answer, Call, Listing, Page, Pager
from poolshift.client.deadlines import async_exchange, async_read
from poolshift.client.errors import AnswerLost, PoolshiftError
from poolshift.client.events import Event, EventReader
from poolshift.client.executions import Execution
from poolshift.client.options import Options
from poolshift.client.resumption import Resumption
from poolshift.client.retries import Attempts
from poolshift.client.wire import httpx, translated

T = TypeVar("T")
_Outcome = TypeVar("_Outcome")


class AsyncTransport:
    """Sends calls and waits for their answers."""

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        self.options = options
        self._http = http

    @classmethod
    def open(cls, options: Options, *, verify: ssl.SSLContext | bool, max_connections: int) -> "AsyncTransport":
        """Makes a transport with connections of its own."""
        settings = wire.settings(options, verify=verify, max_connections=max_connections)
        return cls(options, httpx.AsyncClient(**settings))

    def but(self, options: Options) -> "AsyncTransport":
        """A transport with other options on the same connections."""
        return AsyncTransport(options, self._http)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call, again if it may be repeated.

        Raises:
            PoolshiftError: the service refuses the call, or does not answer.
        """

        async def attempt(attempts: Attempts) -> Answer[T]:
            request = wire.request(self._http, call, wire.timeout(self.options, attempts))
            with translated(attempts):
                raw = await async_exchange(self._http, request, attempts)
            return call.answer(attempts.settled(raw))

        return await self._repeat(call, attempt)

    async def stream(self, call: Call[Execution]) -> httpx.Response:
        """Begins a stream, again if it may be repeated.

        Raises:
            PoolshiftError: the service refuses the call, or does not answer.
        """
        return await self._repeat(call, lambda attempts: self._begin(call, attempts))

    async def _repeat(self, call: Call[Any], attempt: Callable[[Attempts], Awaitable[_Outcome]]) -> _Outcome:
        attempts = self.options.attempts(call)
        while True:
            try:
                return await attempt(attempts)
            except PoolshiftError as error:
                pause_s = attempts.pause_s(error)
            await asyncio.sleep(pause_s)

    async def _begin(self, call: Call[Execution], attempts: Attempts) -> httpx.Response:
        request = wire.request(self._http, call, wire.stream_timeout(self.options, attempts))
        with translated(attempts):
            response = await self._http.send(request, stream=True)
            if wire.is_stream(response):
                return response
            try:
                raise call.refusal(await async_read(response, attempts))
            finally:
                await response.aclose()


class AsyncItems(Generic[T]):
    """The items of a list. Each loop over them gets them again, page by page."""

    def __init__(self, via: AsyncTransport, listing: Listing[T]) -> None:
        self._transport = via
        self._listing = listing

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page.value.items:
                yield item

    async def pages(self) -> AsyncIterator[Answer[Page[T]]]:
        """Gets the pages, one after the other."""
        pager = Pager(self._listing)
        while (call := pager.next_call()) is not None:
            page = await self._transport.answer(call)
            yield page
            pager.took(page.value)


class AsyncStream:
    """The events of one execution. To close the stream early cancels the execution."""

    def __init__(self, via: AsyncTransport, call: Call[Execution]) -> None:
        self._transport = via
        self._call = call
        self._reader = EventReader()
        self._events = self._run()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    async def aclose(self) -> None:
        """Ends the stream, and cancels the execution unless it is over."""
        await self._events.aclose()

    async def result(self) -> Execution:
        """Reads the rest of the stream and returns the execution.

        Raises:
            PoolshiftError: the program has not succeeded.
        """
        async for _ in self._events:
            pass
        return self._reader.result()

    async def _run(self) -> AsyncGenerator[Event, None]:
        resumption = Resumption(self._transport.options, self._call)
        while True:
            try:
                async with contextlib.aclosing(self._read(resumption.call)) as events:
                    async for event in events:
                        yield event
            except AnswerLost as error:
                pause_s = resumption.pause_s(error, self._reader)
            else:
                return
            self._reader = EventReader(self._reader.last_id)
            await asyncio.sleep(pause_s)

    async def _read(self, call: Call[Execution]) -> AsyncGenerator[Event, None]:
        attempts = self._transport.options.attempts(call)
        response = await self._transport.stream(call)
        try:
            with translated(attempts):
                async for piece in response.aiter_bytes():
                    for event in self._reader.feed(piece):
                        yield event
        finally:
            await response.aclose()
        self._reader.result()
