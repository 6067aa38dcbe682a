"""Receivers of webhooks that behave as a test wants: well, slowly, badly or not at all."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Delivery:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[socket.socket], None]
"""Answers a request that has been read; the connection is closed afterwards."""


def says(status: int, *headers: str, body: bytes = b"") -> Behaviour:
    """Answers with a status."""

    def answer(connection: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status} whatever", f"content-length: {len(body)}", "connection: close", *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


@dataclass
class Receiver:
    """A server on loopback; `behaviours` are for the first requests, `then` is for all later ones."""

    url: str = ""
    behaviours: list[Behaviour] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    then: Behaviour = field(default=says(204))

    def next_behaviour(self) -> Behaviour:
        """The behaviour that the next request meets."""
        return self.behaviours.pop(0) if self.behaviours else self.then


def closes(_: socket.socket) -> None:
    """Closes without an answer."""


def talks_nonsense(connection: socket.socket) -> None:
    """Speaks no HTTP."""
    connection.sendall(b"\x00\xff" * 1000)


def floods(head: bytes, more: bytes) -> Behaviour:
    """Sends `head`, then `more` for as long as anyone listens."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(more)

    return answer


def drips(connection: socket.socket, every_s: float = 0.2) -> None:
    """Sends one byte of a header after the other, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
    connection.settimeout(every_s)
    while True:
        connection.sendall(b"x")
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            continue


def hangs(connection: socket.socket) -> None:
    """Says nothing until the other side has gone."""
    connection.recv(1)


@contextmanager
def running_receiver(*behaviours: Behaviour, then: Behaviour | None = None) -> Iterator[Receiver]:
    """A receiver that listens for as long as the block lasts."""
    receiver = Receiver(behaviours=list(behaviours))
    if then is not None:
        receiver.then = then

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            path = self.rfile.readline().split(b" ")[1].decode()
            headers: dict[str, str] = {}
            while (line := self.rfile.readline().strip()) != b"":
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", "0")))
            behaviour = receiver.next_behaviour()
            receiver.deliveries.append(Delivery(path, headers, body))
            try:
                behaviour(self.connection)
            except OSError:
                pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignores clients that go away."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
