"""Calls that are noted, and added up with many others."""

from prometheus_client import CollectorRegistry

from routing.telemetry.http_metrics import HttpMetrics
from routing.telemetry.recorder import Recorder
from routing.telemetry.tallies import BATCH
from routing.versions import Version

OF_V2 = {"pool_version": "v2", "operation": "execute"}
OF_HANDLER = {"method": "POST", "handler": "/x"}


def test_a_scrape_shows_the_last_call() -> None:
    """However many were noted since the one before, and each only once."""
    registry = CollectorRegistry()
    recorder = Recorder(registry, {"program_error": "program"})
    handler = HttpMetrics(registry).of("POST", "/x")
    total = 0
    for count in (1, 2, BATCH - 1, BATCH, BATCH + 1, 0):
        for _ in range(count):
            recorder.answered(Version.V2, "execute", "ok", 0.25, 0.125)
            handler.answered(200, 0.5, 3, 4)
        total += count
        for _ in range(2):
            outcomes = {**OF_V2, "outcome": "ok"}
            assert registry.get_sample_value("poolshift_requests_total", outcomes) == total
            assert registry.get_sample_value("poolshift_request_duration_seconds_count", OF_V2) == total
            assert (
                registry.get_sample_value("poolshift_request_duration_seconds_bucket", {**OF_V2, "le": "0.25"}) == total
            )
            assert registry.get_sample_value("poolshift_request_duration_seconds_sum", OF_V2) == 0.25 * total
            assert (
                registry.get_sample_value("poolshift_queue_wait_seconds_sum", {"pool_version": "v2"}) == 0.125 * total
            )
            assert registry.get_sample_value("http_requests_total", {**OF_HANDLER, "status": "2xx"}) == total
            assert registry.get_sample_value("http_request_duration_seconds_sum", OF_HANDLER) == 0.5 * total
            assert registry.get_sample_value("http_request_size_bytes_sum", {"handler": "/x"}) == 3 * total
            assert registry.get_sample_value("http_request_size_bytes_count", {"handler": "/x"}) == total
            assert registry.get_sample_value("http_response_size_bytes_sum", {"handler": "/x"}) == 4 * total


def test_figures_of_the_console_have_the_last_call() -> None:
    """Durations by bucket and their sum are read beside the scrape."""
    recorder = Recorder(CollectorRegistry(), {})
    recorder.answered(Version.V2, "execute", "ok", 0.25, 0.125)
    assert sum(recorder.latencies(Version.V2)) == 1
    recorder.answered(Version.V2, "execute", "ok", 0.25, 0.125)
    assert recorder.seconds(Version.V2) == (0.5, 0.25)


def test_failed_and_sampled_calls_count_like_others() -> None:
    """They are counted at once, the sampled ones with an exemplar, among those that are noted."""
    registry = CollectorRegistry()
    recorder = Recorder(registry, {"program_error": "program"})
    recorder.answered(Version.V2, "execute", "ok", 0.25, 0.125)
    recorder.answered(Version.V2, "execute", "ok", 0.25, 0.125, "ab" * 16)
    recorder.answered(Version.V2, "execute", "program_error", 0.25, 0.125)
    assert registry.get_sample_value("poolshift_requests_total", {**OF_V2, "outcome": "ok"}) == 2
    assert registry.get_sample_value("poolshift_requests_total", {**OF_V2, "outcome": "program_error"}) == 1
    assert registry.get_sample_value("poolshift_request_duration_seconds_count", OF_V2) == 3
    assert recorder.seconds(Version.V2) == (0.75, 0.375)


def test_calls_are_added_up_without_a_scrape() -> None:
    """A service that nobody scrapes keeps no list of its calls."""
    recorder = Recorder(CollectorRegistry(), {})
    handler = HttpMetrics(CollectorRegistry()).of("POST", "/x")
    for _ in range(10 * BATCH + 1):
        recorder.answered(Version.V2, "execute", "ok", 0.25, 0.125)
        handler.answered(200, 0.5, 3, 4)
    assert [len(calls._noted) for calls in recorder._calls.values()] == [0, 1]
    assert len(handler._noted) == 1
