"""Answers a request in one piece.

By ASGI an answer is at least two messages, and uvicorn writes them one by one: two system calls, two packets, and a
client that wakes up twice. On the execute lane that was a fifth of a call's time (docs/adr/0004).
"""

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

Response = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers with the body's length among them, body."""
_CLOSE = (b"connection", b"close")


async def answer(send: Send, response: Response) -> None:
    """Answers a POST: in one write, where uvicorn serves and the client reads. The headers must be well-formed."""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle) and not cycle.flow.write_paused:
        _write(cycle, response)
        return
    status, headers, body = response
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _write(cycle: RequestResponseCycle, response: Response) -> None:
    """What `RequestResponseCycle.send` does with both messages."""
    if cycle.disconnected:
        return
    status, headers, body = response
    headers = [*cycle.default_headers, *headers]
    if _CLOSE in headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        headers.append(_CLOSE)
    lines = map(b": ".join, headers)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join((STATUS_LINE[status], b"\r\n".join(lines), b"\r\n\r\n", body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
