"""A collector for the traces of the contenders, so that exporting them costs what it costs in earnest."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Takes OTLP over HTTP. It reads it when it is asked: the work of a collector is no contender's."""

    def __init__(self, port: int) -> None:
        self._exports: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            """Any POST is an export."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._exports.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as above
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def spans(self) -> int:
        """Counts the spans that have arrived."""
        requests = [ExportTraceServiceRequest.FromString(_unpacked(export)) for export in self._exports]
        scopes = [
            scope for request in requests for resource in request.resource_spans for scope in resource.scope_spans
        ]
        return sum(len(scope.spans) for scope in scopes)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _unpacked(export: bytes) -> bytes:
    return gzip.decompress(export) if export.startswith(b"\x1f\x8b") else export
