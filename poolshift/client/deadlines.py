"""Answers read within the time of a call: the one thing that the two clients do differently.

asyncio can interrupt a request. A thread cannot: it looks at the clock whenever a piece of the answer has come.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from poolshift.client.calls import RawAnswer
from poolshift.client.retries import Attempts
from poolshift.client.wire import httpx

T = TypeVar("T")


async def async_exchange(http: httpx.AsyncClient, request: httpx.Request, attempts: Attempts) -> RawAnswer:
    """Sends a request and reads its answer."""
    response = await _in_time(http.send(request), attempts)
    return _raw(response, response.content)


async def async_read(response: httpx.Response, attempts: Attempts) -> RawAnswer:
    """Reads an answer whose headers are there."""
    return _raw(response, await _in_time(response.aread(), attempts))


async def _in_time(awaitable: Awaitable[T], attempts: Attempts) -> T:
    try:
        return await asyncio.wait_for(awaitable, attempts.left_s())
    except asyncio.TimeoutError:
        raise attempts.timed_out() from None


def exchange(http: httpx.Client, request: httpx.Request, attempts: Attempts) -> RawAnswer:
    """Sends a request and reads its answer."""
    response = http.send(request, stream=True)
    try:
        return read(response, attempts)
    finally:
        response.close()


def read(response: httpx.Response, attempts: Attempts) -> RawAnswer:
    """Reads an answer whose headers are there."""
    pieces = []
    for piece in response.iter_bytes():
        pieces.append(piece)
        if not attempts.left_s():
            raise attempts.timed_out()
    return _raw(response, b"".join(pieces))


def _raw(response: httpx.Response, content: bytes) -> RawAnswer:
    return RawAnswer(response.status_code, response.headers, content)
