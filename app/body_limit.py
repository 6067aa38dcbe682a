"""Bounds the bodies of ordinary requests; the execute lane counts as it reads."""

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope


def limit_body(scope: Scope, receive: Receive, max_bytes: int) -> Receive:
    """Wraps `receive`: it raises HTTPException 413 as soon as a body is known to be over `max_bytes`.

    Starlette's own limit answers with plain text, past the handler that makes every error a problem.
    """
    received = 0
    announced = next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)

    async def receive_limited() -> Message:
        nonlocal received
        if announced <= max_bytes:
            message = await receive()
            received += len(message.get("body", b""))
        if max(announced, received) > max_bytes:
            raise HTTPException(413, f"the body is over {max_bytes} bytes (MAX_BODY_BYTES)")
        return message

    return receive_limited
