"""One execute call on its connection: its request, and its answer in one piece.

What uvicorn's `RequestResponseCycle` is to every other request, for a fraction of what that costs (docs/adr/0004).
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from app.problems import CONTENT_TYPE, internal_error

Response = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, well-formed headers with the body's length among them, body."""
_TASK_NAME: Final = "execute"
_CLOSE: Final = (b"connection", b"close")
_DISCONNECT: Final[Message] = {"type": "http.disconnect"}
_FAILURE: Final = internal_error().body()
_NO_ANSWER: Final[Response] = (
    500,
    [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(_FAILURE)), _CLOSE],
    _FAILURE,
)
_log = structlog.stdlib.get_logger("poolshift.http")


class Exchange:
    """A request that has arrived, and whoever runs the application for it."""

    def __init__(
        self, scope: dict[str, Any], body: bytes, server: ServerState, on_answer: Callable[[bytes], None]
    ) -> None:
        """`on_answer` is called once, unless the client goes, with the answer's bytes."""
        self.keep_alive = True
        """Whether the connection is there for others after it."""
        self._scope = scope
        self._body: bytes | None = body
        self._server = server
        self._on_answer = on_answer
        self._head: Message = {}
        self._is_over = False
        self._over: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        """Has the application answer, in a task that the server waits for."""
        # Not by `loop.create_task`, which would print a name of its own for each.
        # In a context of its own, or else one that came early would have that of the call before it.
        self._task = asyncio.Task(self._run(app), loop=loop, name=_TASK_NAME, context=contextvars.Context())
        self._server.tasks.add(self._task)

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            _log.exception("unforeseen error")
        finally:
            assert self._task is not None
            self._server.tasks.discard(self._task)
            self.answer(_NO_ANSWER)  # wrong or cancelled, it leaves no client waiting

    def client_gone(self) -> None:
        """Nobody is there to be answered."""
        self._end()

    async def receive(self) -> Message:
        """By ASGI: the body, then that the client has gone."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._is_over:
            self._over = self._over or asyncio.Event()
            await self._over.wait()
        return _DISCONNECT

    async def send(self, message: Message) -> None:
        """By ASGI: the answer's head, then its body, which leave together.

        Raises:
            RuntimeError: there is more than one message to the body.
        """
        if message["type"] == "http.response.start":
            self._head = message
        elif message.get("more_body"):
            raise RuntimeError("an exchange has its answer in one piece")
        else:
            self.answer((self._head["status"], list(self._head["headers"]), message["body"]))

    def answer(self, response: Response) -> None:
        """The same without ASGI. Does nothing where that has been done, or nobody is there."""
        if self._is_over:
            return
        status, headers, body = response
        headers = [*self._server.default_headers, *headers]
        if _CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append(_CLOSE)
        lines = [b": ".join(header) for header in headers]
        self._end()
        self._on_answer(b"".join((STATUS_LINE[status], b"\r\n".join(lines), b"\r\n\r\n", body)))

    def _end(self) -> None:
        self._is_over = True
        if self._over is not None:
            self._over.set()


async def answer(send: Send, response: Response) -> None:
    """Answers by ASGI, or an exchange directly: uvicorn writes head and body apart, and the client wakes up twice."""
    exchange = getattr(send, "__self__", None)
    if isinstance(exchange, Exchange):
        exchange.answer(response)
        return
    status, headers, body = response
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
