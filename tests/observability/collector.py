"""An OTLP/HTTP receiver: takes spans as a collector would, or hangs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import wait_until

Behaviour = Literal["takes", "hangs"]


class Collector:
    """An OpenTelemetry collector that keeps the spans it receives."""

    def __init__(self, behaviour: Behaviour = "takes") -> None:
        self.behaviour = behaviour
        self.requests = 0
        self.resource: dict[str, Any] = {}
        self.let_go = threading.Event()
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in request.resource_spans:
                self.resource = attributes(resource.resource)
                for scope in resource.scope_spans:
                    self._spans += scope.spans

    def trace(self, trace_id: str) -> "Trace":
        """Returns the spans of a trace that have arrived."""
        with self._lock:
            return Trace([span for span in self._spans if span.trace_id.hex() == trace_id])

    def whole_trace(self, trace_id: str, count: int) -> "Trace":
        """A trace, when `count` spans of it have arrived."""
        wait_until(lambda: len(self.trace(trace_id).spans) >= count, f"{count} spans of {trace_id} arrive")
        trace = self.trace(trace_id)
        assert len(trace.spans) == count, [span.name for span in trace.spans]
        return trace

    @property
    def trace_ids(self) -> set[str]:
        with self._lock:
            return {span.trace_id.hex() for span in self._spans}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests += 1
                if collector.behaviour == "hangs":
                    collector.let_go.wait()
                    return
                if self.path != "/v1/traces":
                    self.send_error(404)
                    return
                collector.take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class Trace:
    """The spans of one trace."""

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans

    def one(self, name: str) -> Span:
        """The only span of this name."""
        (span,) = self.all(name)
        return span

    def all(self, name: str) -> list[Span]:
        """The spans of this name, in the order of their beginning."""
        found = [span for span in self.spans if span.name == name]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def tree(self) -> dict[str, str | None]:
        """Each span's name with its parent's; None where the parent is not in this trace."""
        names = {span.span_id: span.name for span in self.spans}
        return {span.name: names.get(span.parent_span_id) for span in self.spans}


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span, an event or a resource."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@contextmanager
def running_collector(behaviour: Behaviour = "takes") -> Iterator[Collector]:
    """A collector for as long as the block lasts."""
    collector = Collector(behaviour)
    try:
        yield collector
    finally:
        collector.close()
