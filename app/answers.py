"""Answers a request in one piece.

By ASGI an answer is at least two messages, and uvicorn writes them one by one: two system calls, two packets, and a
client that wakes up twice. On the execute lane that was a fifth of a call's time (docs/adr/0004).
"""

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

Response = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers with the body's length among them, body."""


async def answer(send: Send, response: Response) -> None:
    """Answers a POST: in one write where `send` is uvicorn's own. The headers must be well-formed."""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle):
        await _write(cycle, response)
        return
    status, headers, body = response
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _write(cycle: RequestResponseCycle, response: Response) -> None:
    """What `RequestResponseCycle.send` does with both messages."""
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
