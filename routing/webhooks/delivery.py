"""Sends requests to receivers, which may be slow, dead, wrong or hostile.

HTTP runs on an event loop of its own, in a thread of its own: a receiver that hangs, floods or resolves slowly does not
hold up the service's loop.
"""

import asyncio
import functools
import os
import socket
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import httpx

from config.webhook_allow import WebhookAllow
from routing.webhooks.request import Request

TIMEOUT_S: Final = 10.0
"""Seconds that a receiver has for everything: its address, the connection, and the status of its response."""
_MAX_ADDRESSES: Final = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """A receiver's answer: a status, or the reason why there is none."""

    status: int | None
    problem: str

    @property
    def is_accepted(self) -> bool:
        """Tells if the receiver has the notification. A redirect is not an acceptance, and is not followed."""
        return self.status is not None and 200 <= self.status < 300


async def post(url: str, request: Request, allow: WebhookAllow | None = None) -> Answer:
    """Sends one request and looks at the status alone: the body of the response is never read.

    A URL that a client has chosen comes with `allow`, which must allow the address that is connected to.
    """
    try:
        tls = _tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        async with asyncio.timeout(TIMEOUT_S):
            if allow is None:
                async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, verify=tls) as client:
                    return await _send(client, httpx.URL(url), request)
            return await _post_to_address(url, request, allow, tls)
    except TimeoutError:
        return Answer(None, f"the receiver did not answer within {TIMEOUT_S:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Answer(None, f"the receiver cannot be reached: {type(error).__name__}")


async def _post_to_address(url: str, request: Request, allow: WebhookAllow, tls: ssl.SSLContext) -> Answer:
    """Resolves the host once, and connects to that address: no second look-up can name another one."""
    target = httpx.URL(url)
    port = target.port or {"http": 80, "https": 443}[target.scheme]
    found = await asyncio.get_running_loop().getaddrinfo(target.host, port, type=socket.SOCK_STREAM)
    addresses = [
        address for address in dict.fromkeys(str(one[4][0]) for one in found) if allow.may_connect(url, address)
    ]
    if not addresses:
        return Answer(None, "WEBHOOK_ALLOW does not allow the receiver's address")
    host = target.netloc.decode("ascii")
    extensions = {"sni_hostname": target.host}
    # No proxy of the environment: it would resolve the host again.
    async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False, verify=tls) as client:
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                return await _send(client, target.copy_with(host=address), request, host, extensions)
            except httpx.ConnectError as error:
                failure = error
        raise failure


@functools.lru_cache(maxsize=1)
def _tls(*_: str | None) -> ssl.SSLContext:
    """Reads the certificates that receivers are checked with; the arguments say where httpx finds them."""
    return httpx.create_ssl_context()


async def _send(
    client: httpx.AsyncClient,
    url: httpx.URL,
    request: Request,
    host: str | None = None,
    extensions: dict[str, Any] | None = None,
) -> Answer:
    headers = request.headers if host is None else {**request.headers, "host": host}
    async with client.stream("POST", url, headers=headers, content=request.body, extensions=extensions) as response:
        return Answer(response.status_code, f"the receiver says {response.status_code}")


class DeliveryLoop:
    """An event loop in a thread that ends with the process, whatever it waits for."""

    def __init__(self) -> None:
        # Not uvloop's, whose lookups of addresses share four threads with those of the service.
        self._loop = asyncio.SelectorEventLoop()
        threading.Thread(target=self._serve, name="webhook", daemon=True).start()

    async def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The result of `work`, which runs in the thread; a cancellation cancels it there too."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """Ends the thread, and does not wait for it."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self) -> None:
        self._loop.run_forever()
        if left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.close()
