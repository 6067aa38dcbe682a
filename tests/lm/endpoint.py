"""An OpenAI-style endpoint of the tests' own. The first part of the path says how it behaves, the rest who it is."""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]`?(?: \(must be formatted as a valid Python (\w+))?")
_VALUES = {"int": "7", "float": "2.5", "bool": "True", "list": '["a", "b"]', "dict": '{"a": 1}'}
RETRY_AFTER_S = 7
PROMPT_TOKENS, COMPLETION_TOKENS = 11, 5
FAILS = ("refuses", "forbids", "limits", "fails", "babbles", "garbles", "empty")
"""Behaviours of an endpoint that says nothing of use, and at once."""
COUNTS = {"huge": "1" + 310 * "0", "negative": "-5", "text": '"many"', "float": "1.5e300", "null": "null"}
"""Token counts that an endpoint which `boasts` reports, by its name."""
PIECE = 4
"""A streamed text comes in so many characters at a time: amid headers and words."""
_ABOUT = {"id": "one", "created": 1, "model": "test"}
_USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": COMPLETION_TOKENS,
    "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
}


class Endpoint:
    """Behaviours: `answers`, `holds`, `says`, `acts`, `boasts`, `waits`, `slow`, `drips`, `breaks`, those of `FAILS`.

    It answers a text with its own name and the key it was called with, so that a test sees which LM has answered. Where
    it fails it says the key, too, as some endpoints do, so that a test sees that it goes no further. To who wants a
    stream, `breaks` breaks off amid its text, and `waits` goes on there when it is `released`; `holds` answers then.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.closing = threading.Event()
        self.released: dict[str, threading.Event] = defaultdict(threading.Event)
        self.texts: dict[str, dict[str, str]] = defaultdict(dict)
        """Answers of an endpoint that `says`: fields by name of the answer."""

    def base(self, behaviour: str, name: str = "one") -> str:
        return f"{self.url}/{behaviour}/{name}/v1"

    def prompt(self, name: str) -> str:
        """All of the messages that `name` was sent last."""
        return "\n".join(message["content"] for message in self.requests[name][-1]["messages"])


def _wanted(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Lists the output fields that a prompt asks for, each with its type if that is not a text."""
    content = body["messages"][-1]["content"]
    if not isinstance(content, str):  # a prompt with images is in parts
        content = "".join(part.get("text", "") for part in content)
    found: list[tuple[str, str]] = _FIELD.findall(content.rpartition("Respond with the corresponding output fields")[2])
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes, of which the second would wait for an answer
    server: "_Server"

    def do_POST(self) -> None:
        _, behaviour, name, *_ = self.path.split("/")
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.endpoint.requests[name].append(body)
        getattr(self, f"_{behaviour}")(name, body)

    def _answers(self, name: str, body: dict[str, Any]) -> None:
        self._say(self._fitting(name, body), body)

    def _holds(self, name: str, body: dict[str, Any]) -> None:
        self.server.endpoint.released[name].wait(60)
        self._answers(name, body)

    def _says(self, name: str, body: dict[str, Any]) -> None:
        """Answers with the texts that the test has set."""
        texts = self.server.endpoint.texts[name]
        fields = [f"[[ ## {field} ## ]]\n{texts.get(field, name)}" for field, _ in _wanted(body)]
        self._say("\n\n".join([*fields, "[[ ## completed ## ]]"]), body)

    def _boasts(self, name: str, body: dict[str, Any]) -> None:
        """Answers, and reports a number of tokens that no other machine takes for one: the name is its JSON."""
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
        choice["message"] = {"role": "assistant", "content": self._fitting(name, body)}
        said = {"object": "chat.completion", **_ABOUT, "choices": [choice], "usage": dict.fromkeys(_USAGE, "TOKENS")}
        self._send(200, json.dumps(said).replace('"TOKENS"', COUNTS[name]))

    def _acts(self, name: str, body: dict[str, Any]) -> None:
        """Calls the tools that the input `plan` names, in turn, then answers with what the last one returned."""
        asked = body["messages"][-1]["content"]
        plan = json.loads(asked.partition("[[ ## plan ## ]]")[2].partition("[[ ## ")[0])
        seen = re.findall(r"\[\[ ## observation_\d+ ## \]\]\n(.*)", asked)
        if "[[ ## next_tool_name ## ]]" not in asked:
            said = {"reasoning": "so it is", "answer": seen[max(0, len(plan) - 1)]}
        else:
            tool, arguments = [*plan, ["finish", {}]][len(seen)]
            said = {"next_thought": "on", "next_tool_name": tool, "next_tool_args": json.dumps(arguments)}
        self._say("\n\n".join(f"[[ ## {field} ## ]]\n{value}" for field, value in said.items()), body)

    def _waits(self, name: str, body: dict[str, Any]) -> None:
        text = self._fitting(name, body)
        self._begin_stream()
        self._stream(text[: len(text) // 2])
        self.server.endpoint.released[name].wait(60)
        self._stream(text[len(text) // 2 :])
        self._end_stream()

    def _fitting(self, name: str, body: dict[str, Any]) -> str:
        text = f"{name} {self._key()}"
        fields = [f"[[ ## {field} ## ]]\n{_VALUES.get(kind, text)}" for field, kind in _wanted(body)]
        return "\n\n".join([*fields, "[[ ## completed ## ]]"])

    def _key(self) -> str:
        return self.headers["authorization"].removeprefix("Bearer ")

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
        self._send(401, {"error": {"message": f"no such key: {self._key()}", "code": "invalid"}})

    def _forbids(self, name: str, body: dict[str, Any]) -> None:
        self._send(403, {"error": {"message": f"not with the key {self._key()}"}})

    def _limits(self, name: str, body: dict[str, Any]) -> None:
        self._send(429, {"error": {"message": f"too many with {self._key()}"}}, {"retry-after": str(RETRY_AFTER_S)})

    def _fails(self, name: str, body: dict[str, Any]) -> None:
        self._send(500, {"error": {"message": f"broken by {self._key()}"}})

    def _breaks(self, name: str, body: dict[str, Any]) -> None:
        if body.get("stream"):
            self._begin_stream()
            self._stream(self._fitting(name, body)[:-30])
        else:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def _babbles(self, name: str, body: dict[str, Any]) -> None:
        self._say(f"colourless green ideas sleep furiously {self._key()}", body)

    def _garbles(self, name: str, body: dict[str, Any]) -> None:
        self._send(200, f"<html>no JSON {self._key()}</html>")

    def _empty(self, name: str, body: dict[str, Any]) -> None:
        self._say(None, body)

    def _say(self, content: str | None, body: dict[str, Any]) -> None:
        if body.get("stream"):
            self._begin_stream()
            self._stream(content or "")
            self._end_stream()
            return
        message = {"role": "assistant", "content": content, "refusal": None if content else "I would rather not"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self._send(200, {**_ABOUT, "object": "chat.completion", "choices": [choice], "usage": _USAGE})

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _stream(self, text: str) -> None:
        for at in range(0, len(text), PIECE):
            self._event([{"index": 0, "finish_reason": None, "delta": {"content": text[at : at + PIECE]}}])

    def _end_stream(self) -> None:
        self._event([{"index": 0, "finish_reason": "stop", "delta": {}}])
        self._event([], usage=_USAGE)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, choices: list[Any], **more: Any) -> None:
        event = {**_ABOUT, "object": "chat.completion.chunk", "choices": choices, **more}
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

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
