"""The `http_*` metrics, for the ordinary endpoints and for the execute lane alike.

The instrumentator's middleware (`app/application.py`) counts the ordinary endpoints. It would cost the lane a third of
its throughput (docs/adr), so the lane counts for itself, under the same names and labels.
"""

from collections import Counter as Tally

from mypy_extensions import mypyc_attr
from prometheus_client import CollectorRegistry

from routing.telemetry.tallies import BATCH, Count, Counter, Distribution, Histogram, Summary, Total

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER_METHODS = "other"
"""HTTP has dozens more, and a client may send any of them to any path."""
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@mypyc_attr(allow_interpreted_subclasses=True)  # the bench has silent ones
class HttpMetrics:
    """Requests by handler, method and status class; how long they took; how big they were."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._handlers: list[HandlerMetrics] = []
        self._requests = Counter(
            "http_requests_total",
            "Requests by method, status and handler.",
            ["method", "status", "handler"],
            registry,
            self._add_up,
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "From the request to the end of the answer.",
            ["method", "handler"],
            _BUCKETS,
            registry,
            self._add_up,
        )
        self._request_size = Summary(
            "http_request_size_bytes", "Content length of requests.", ["handler"], registry, self._add_up
        )
        self._response_size = Summary(
            "http_response_size_bytes", "Content length of answers.", ["handler"], registry, self._add_up
        )

    def answered(self, method: str, handler: str, status: str, seconds: float, received: int, sent: int) -> None:
        """Counts one request of any handler: its status class, its time, the bytes that came in and went out."""
        known = method if method in _METHODS else OTHER_METHODS
        self._requests.of(known, status, handler).inc()
        self._duration.of(known, handler).observe(seconds)
        self._request_size.of(handler).observe(received)
        self._response_size.of(handler).observe(sent)

    def of(self, method: str, handler: str) -> "HandlerMetrics":
        """The same for one handler, its labels looked up once."""
        metrics = HandlerMetrics(
            by_status={status: self._requests.of(method, f"{status}xx", handler) for status in (2, 4, 5)},
            duration=self._duration.of(method, handler),
            request_size=self._request_size.of(handler),
            response_size=self._response_size.of(handler),
        )
        self._handlers.append(metrics)
        return metrics

    def _add_up(self) -> None:
        for handler in self._handlers:
            handler.add_up()


@mypyc_attr(allow_interpreted_subclasses=True)  # the bench has silent ones
class HandlerMetrics:
    """The metrics of one handler."""

    def __init__(
        self, *, by_status: dict[int, Count], duration: Distribution, request_size: Total, response_size: Total
    ) -> None:
        self._by_status = by_status
        self._duration = duration
        self._request_size = request_size
        self._response_size = response_size
        self._noted: list[tuple[int, float, int, int]] = []
        """The requests that are not added up yet."""

    def answered(self, status: int, seconds: float, received: int, sent: int) -> None:
        """Counts one request: its status, how long it took, the bytes that came in and went out."""
        self._noted.append((status, seconds, received, sent))
        if len(self._noted) >= BATCH:
            self.add_up()

    def add_up(self) -> None:
        """Adds up the requests that are only noted yet."""
        noted, self._noted = self._noted, []
        if not noted:
            return
        statuses, seconds, received, sent = zip(*noted, strict=True)
        for status, count in Tally(statuses).items():
            self._by_status[status // 100].value += count
        self._duration.observe_all(seconds)
        self._request_size.observe_all(received)
        self._response_size.observe_all(sent)
