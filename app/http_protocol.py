"""uvicorn's HTTP/1.1 with one thing more: an answer that is whole is written as a whole.

By ASGI an answer is at least two messages, which uvicorn writes one by one: two system calls, two packets, and a client
that wakes up twice. On the execute lane that was a fifth of a call's time (docs/adr/0004).
"""

from functools import partial
from typing import TYPE_CHECKING

from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

Response = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers with the body's length among them, body."""

_EXTENSION = "poolshift.whole"


class HttpProtocol(HttpToolsProtocol):
    """Offers each request an extension (ASGI 3.0, "Extensions") that `answer` uses."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        cycle.scope["extensions"] = {_EXTENSION: partial(_write, cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)


async def answer(scope: Scope, send: Send, response: Response) -> None:
    """Answers a request, in one piece where the server can; the headers must be well-formed, for nobody checks them."""
    write = scope.get("extensions", {}).get(_EXTENSION)
    if write is not None:
        await write(response)
        return
    status, headers, body = response
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _write(cycle: RequestResponseCycle, response: Response) -> None:
    """What `RequestResponseCycle.send` does with the two messages of an answer to a POST."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    status, headers, body = response
    parts = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        if name == b"connection" and value == b"close":
            cycle.keep_alive = False
        else:
            parts += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        parts.append(b"connection: close\r\n")
    parts += (b"\r\n", body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(parts))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
