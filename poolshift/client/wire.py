"""The part of HTTP that both transports share: requests, timeouts, and httpx's errors as those of the client."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

from poolshift.client.calls import Call
from poolshift.client.errors import AnswerLost, PoolshiftError, ServiceUnreachable, UnexpectedAnswer
from poolshift.client.options import KEEP_ALIVE_S, Options
from poolshift.client.retries import Attempts

try:
    import httpx
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "poolshift.client needs httpx: python -m pip install 'httpx>=0.28'", name=missing.name
    ) from missing

__all__ = ["httpx", "is_stream", "request", "settings", "stream_timeout", "timeout", "translated"]
_EVENTS = "text/event-stream"


class Settings(TypedDict):
    """The arguments that both clients of httpx take."""

    base_url: str
    headers: dict[str, str]
    verify: ssl.SSLContext | bool
    limits: httpx.Limits


def settings(options: Options, *, verify: ssl.SSLContext | bool, max_connections: int) -> Settings:
    """Makes the arguments for a client of httpx. It follows no redirect: a key goes to the service alone."""
    limits = httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S
    )
    return {"base_url": options.url, "headers": options.headers(), "verify": verify, "limits": limits}


def request(http: httpx.Client | httpx.AsyncClient, call: Call[Any], timeout: httpx.Timeout) -> httpx.Request:
    """Makes the request of a call."""
    headers, params = dict(call.headers), dict(call.params)
    return http.build_request(
        call.method, call.path, params=params, headers=headers, content=call.content, timeout=timeout
    )


def timeout(options: Options, attempts: Attempts) -> httpx.Timeout:
    """Gives an attempt the time that is left."""
    left_s = max(0.001, attempts.left_s())
    return httpx.Timeout(left_s, connect=min(left_s, options.connect_timeout_s))


def stream_timeout(options: Options, attempts: Attempts) -> httpx.Timeout:
    """Lets a stream last, and ends it if it is silent for longer than the service ever is."""
    return httpx.Timeout(attempts.timeout_s, connect=options.connect_timeout_s)


def is_stream(response: httpx.Response) -> bool:
    """Tells a stream from an error, and from an answer of something else than Poolshift."""
    return response.status_code == 200 and response.headers.get("content-type", "").startswith(_EVENTS)


@contextmanager
def translated(attempts: Attempts) -> Iterator[None]:
    """Raises the errors of httpx as those of the client."""
    try:
        yield
    except httpx.RequestError as error:
        raise _no_answer(error, attempts) from error


def _no_answer(error: httpx.RequestError, attempts: Attempts) -> PoolshiftError:
    """Turns an error of httpx into the client's: if the request surely did not arrive, it says so.

    Raises:
        ValueError: the request cannot be sent as it is.
    """
    told = str(error) or type(error).__name__
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        raise ValueError(told) from error  # noqa: TRY004 - a value that no request can have
    if isinstance(error, httpx.ConnectTimeout):
        return ServiceUnreachable("no connection in time")
    if isinstance(error, httpx.PoolTimeout):
        return ServiceUnreachable("no connection in time: all connections of this client are in use")
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        return ServiceUnreachable(told)
    if isinstance(error, httpx.TimeoutException):
        return attempts.timed_out()
    if isinstance(error, httpx.DecodingError):
        return UnexpectedAnswer(f"the answer cannot be decoded: {told}")
    return AnswerLost(f"{told}{attempts.unknown()}")
