"""Bounds the bodies of ordinary requests; the execute lane counts as it reads."""

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive


def limit_body(receive: Receive, max_bytes: int) -> Receive:
    """`receive` that raises HTTPException 413 once a body is over `max_bytes`.

    Starlette's own limit answers with plain text, past the handler that makes every error a problem.
    """
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise HTTPException(413, f"the body is over {max_bytes} bytes (MAX_BODY_BYTES)")
        return message

    return receive_limited
