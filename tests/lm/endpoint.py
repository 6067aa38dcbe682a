"""An OpenAI-style endpoint of the tests' own. The first part of the path says how it behaves, the rest who it is."""

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]`?(?: \(must be formatted as a valid Python (\w+))?")
_VALUES = {"int": "7", "float": "2.5", "bool": "True", "list": '["a", "b"]', "dict": '{"a": 1}'}
RETRY_AFTER_S = 7
PROMPT_TOKENS, COMPLETION_TOKENS = 11, 5


class Endpoint:
    """Behaviours are `answers`, `slow`, `drips`, `refuses`, `limits`, `fails`, `breaks`, `babbles`, `garbles`, `empty`.

    It answers a text with its own name and the key it was called with, so that a test sees which LM has answered.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.closing = threading.Event()

    def base(self, behaviour: str, name: str = "one") -> str:
        return f"{self.url}/{behaviour}/{name}/v1"

    def prompt(self, name: str) -> str:
        """All of the messages that `name` was sent last."""
        return "\n".join(message["content"] for message in self.requests[name][-1]["messages"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_POST(self) -> None:
        _, behaviour, name, *_ = self.path.split("/")
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.endpoint.requests[name].append(body)
        getattr(self, f"_{behaviour}")(name, body)

    def _answers(self, name: str, body: dict[str, Any]) -> None:
        wanted = body["messages"][-1]["content"].rpartition("Respond with the corresponding output fields")[2]
        key = self.headers["authorization"].removeprefix("Bearer ")
        fields = [
            f"[[ ## {field} ## ]]\n{_VALUES.get(kind, f'{name} {key}')}" for field, kind in _FIELD.findall(wanted)
        ]
        self._say("\n\n".join(fields))

    def _slow(self, name: str, body: dict[str, Any]) -> None:
        self.server.endpoint.closing.wait(60)

    def _drips(self, name: str, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "100000")
        self.end_headers()
        try:
            while not self.server.endpoint.closing.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        except OSError:
            pass  # whoever asked has gone
        self.close_connection = True

    def _refuses(self, name: str, body: dict[str, Any]) -> None:
        self._send(401, {"error": {"message": f"no such key: {self.headers['authorization']}", "code": "invalid"}})

    def _limits(self, name: str, body: dict[str, Any]) -> None:
        self._send(429, {"error": {"message": "too many"}}, {"retry-after": str(RETRY_AFTER_S)})

    def _fails(self, name: str, body: dict[str, Any]) -> None:
        self._send(500, {"error": {"message": "broken"}})

    def _breaks(self, name: str, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def _babbles(self, name: str, body: dict[str, Any]) -> None:
        self._say("colourless green ideas sleep furiously")

    def _garbles(self, name: str, body: dict[str, Any]) -> None:
        self._send(200, "<html>no JSON</html>")

    def _empty(self, name: str, body: dict[str, Any]) -> None:
        self._say(None)

    def _say(self, content: str | None) -> None:
        message = {"role": "assistant", "content": content, "refusal": None if content else "I would rather not"}
        self._send(
            200,
            {
                "id": "one",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": "test",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {
                    "prompt_tokens": PROMPT_TOKENS,
                    "completion_tokens": COMPLETION_TOKENS,
                    "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
                },
            },
        )

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Nothing: a test says what it saw."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    endpoint: Endpoint


@contextmanager
def running_endpoint() -> Iterator[Endpoint]:
    """An endpoint on a free port, for as long as the block lasts."""
    server = _Server(("127.0.0.1", 0), _Handler)
    endpoint = server.endpoint = Endpoint(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
