"""Both clients behind one face, so that each test runs with either."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any

from poolshift.client import AsyncClient, AsyncItems, AsyncStream, Client
from poolshift.client._async.groups import AsyncGroup

KINDS = ("threads", "asyncio")


class _Loop:
    """An event loop that runs whatever an asynchronous client gives back."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def plain(self, value: Any) -> Any:
        """Turns an awaitable into its result, an asynchronous iterator into a plain one, and a group into a face."""
        if asyncio.iscoroutine(value):
            return self.plain(self.runner.run(value))
        if isinstance(value, AsyncStream):
            return _StreamFace(self, value)
        if isinstance(value, AsyncItems):
            return _ItemsFace(self, value)
        if callable(value):
            return functools.wraps(value)(lambda *args, **kwargs: self.plain(value(*args, **kwargs)))
        if isinstance(value, AsyncGroup):
            return _Face(self, value)
        return value

    def iterate(self, values: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self.runner.run(_next(values))
            except StopAsyncIteration:
                return


async def _next(values: AsyncIterator[Any]) -> Any:
    return await anext(values)


class _Face:
    def __init__(self, loop: _Loop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return self._loop.plain(getattr(self._inner, name))


class _ItemsFace(_Face):
    def __iter__(self) -> Iterator[Any]:
        return self._loop.iterate(aiter(self._inner))

    def pages(self) -> Iterator[Any]:
        return self._loop.iterate(self._inner.pages())


class _StreamFace(_Face):
    def __iter__(self) -> Iterator[Any]:
        return self._loop.iterate(aiter(self._inner))

    def __enter__(self) -> "_StreamFace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.runner.run(self._inner.aclose())


Make = Callable[..., Client]


class Clients:
    """Makes clients of one kind, and closes them."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._ends: list[Callable[[], None]] = []

    def make(self, url: str, **options: Any) -> Client:
        """A client for `url`; the one for asyncio has the methods of the other."""
        if self._kind == "threads":
            client = Client(url, **options)
            self._ends.append(client.close)
            return client
        loop, asynchronous = _Loop(), AsyncClient(url, **options)

        def end() -> None:
            loop.runner.run(asynchronous.aclose())
            loop.runner.close()

        self._ends.append(end)
        face: Client = _Face(loop, asynchronous)  # type: ignore[assignment]
        return face

    def close(self) -> None:
        """Closes all clients."""
        for end in self._ends:
            end()
