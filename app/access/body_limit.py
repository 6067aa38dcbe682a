"""Guards the bodies of ordinary requests: no stranger's is read, none is over a bound."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from app.access.auth import Authenticator
from app.problems import Problem


def guard_body(scope: Scope, receive: Receive, authenticator: Authenticator | None, max_bytes: int) -> Receive:
    """Wraps `receive`: it reads a body whole, and raises HTTPException instead of reading one that is not welcome.

    401 if the request has no known key, since FastAPI parses a body before it asks who sends it; not if `authenticator`
    is None. 413 once a body is over `max_bytes`, before any of it if the head says so; Starlette's own limit answers
    with plain text.
    """
    headers = dict(scope["headers"])
    announced = int(headers.get(b"content-length", b"0"))
    if not announced and b"transfer-encoding" not in headers:
        return receive
    body = bytearray()
    is_read = False

    async def receive_guarded() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        if authenticator is not None:
            _refuse_strangers(headers, authenticator)
        while not is_read:
            _bound(max(announced, len(body)), max_bytes)
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            body.extend(message.get("body", b""))
            is_read = not message.get("more_body", False)
        _bound(len(body), max_bytes)
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return receive_guarded


def _refuse_strangers(headers: Mapping[bytes, bytes], authenticator: Authenticator) -> None:
    try:
        authenticator.principal(headers)
    except Problem as problem:
        raise HTTPException(problem.kind.status, problem.detail) from None


def _bound(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise HTTPException(413, f"the body is over {max_bytes} bytes (MAX_BODY_BYTES)")
