"""The process that exports spans: no call is the worse for what becomes of it, and no span is lost uncounted."""

import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import psutil

from common import own_process
from poolshift.worker.framing import frame
from routing.telemetry.spans import CallSpan, Export, Spans
from tests.conftest import StartService
from tests.observability.collector import attributes, running_collector
from tests.observability.conftest import PROGRAMS, log_lines, traced
from tests.observability.test_traces import ECHO, sampled_execute
from tests.support.replicas import COUNT
from tests.support.service import Service
from tests.support.waiting import wait_until

SPANS = "poolshift_trace_spans_total"


def exporters(service: Service) -> list[psutil.Process]:
    """As many as the service runs: each replica has one or, between two, none."""
    assert service.process is not None
    children = psutil.Process(service.process.pid).children(recursive=True)
    return [child for child in children if "routing.telemetry.span_exporter" in child.cmdline()]


def test_the_exporter_is_killed(start_service: StartService) -> None:
    """The service counts the exporter's spans as failed, and another exporter sends the later ones."""
    with running_collector("hangs") as collector:
        service = start_service(**traced(collector))
        program = service.create("echo", ECHO)
        assert sampled_execute(service, program, inputs={"nonce": "a"})[0].status_code == 200
        wait_until(lambda: collector.requests > 0, "spans are on their way")
        running = exporters(service)
        assert len(running) == COUNT
        for exporter in running:
            exporter.kill()
        wait_until(lambda: service.metric(SPANS, outcome="failed") > 0, "their loss is noticed")
        collector.behaviour = "takes"
        answer, trace_id = sampled_execute(service, program, inputs={"nonce": "b"})
        assert answer.status_code == 200
        collector.whole_trace(trace_id, 5)
        wait_until(lambda: service.metric(SPANS) == 10, "each span of both calls is counted once")
        assert "the exporter of spans ended; another is started" in service.log()
        assert service.stop() == 0


def test_it_cannot_export(start_service: StartService, tmp_path: Path) -> None:
    """Whom to trust is not there: the service's log says so in its own format, the spans are counted."""
    with running_collector() as collector:
        endpoint = collector.endpoint.replace("http", "https")
        nowhere = tmp_path / "ca.pem"
        service = start_service(
            **traced(
                collector,
                OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
                OTEL_EXPORTER_OTLP_CERTIFICATE=nowhere,
                LOG_FORMAT="json",
            )
        )
        program = service.create("echo", ECHO)
        assert sampled_execute(service, program, inputs={"nonce": "a"})[0].status_code == 200
        wait_until(lambda: service.metric(SPANS, outcome="failed") == 5, "all are lost")
        assert any(str(nowhere) in line["event"] for line in log_lines(service, level="error"))
        assert service.stop() == 0


def test_a_worker_sends_nonsense(start_service: StartService) -> None:
    """Spans that are none are counted as failed; the exporter and all other spans are none the worse."""
    with running_collector() as collector:
        service = start_service(**traced(collector, POOL_VERSION="v2", V2_POOL_SIZE=1))
        program = service.create(f"{PROGRAMS}:breaks_its_recording", {})
        (exporter,) = exporters(service)
        trace_ids = [sampled_execute(service, program)[1] for _ in range(2)]
        for trace_id in trace_ids:
            collector.whole_trace(trace_id, 4)
        wait_until(lambda: service.metric(SPANS, outcome="failed") == 2, "what the worker sent is counted")
        assert [one.pid for one in exporters(service)] == [exporter.pid]


def test_every_process_is_told_to_end(start_service: StartService) -> None:
    """As systemd does it: the exporter waits for the service, and all spans arrive."""
    with running_collector() as collector:
        service = start_service(**traced(collector, OTEL_BSP_SCHEDULE_DELAY=3_600_000))
        program = service.create("echo", ECHO)
        _, trace_id = sampled_execute(service, program, inputs={"nonce": "a"})
        running = exporters(service)
        assert len(running) == COUNT
        wait_until(lambda: all(exporter.num_threads() > 1 for exporter in running), "they are up")
        for exporter in running:
            exporter.terminate()
        assert service.stop() == 0
        collector.whole_trace(trace_id, 5)
        assert "background task ended" not in service.log()


def test_the_service_is_killed(start_service: StartService) -> None:
    """The exporter ends as well, whatever the collector does."""
    with running_collector("hangs") as collector:
        service = start_service(**traced(collector))
        program = service.create("echo", ECHO)
        sampled_execute(service, program, inputs={"nonce": "a"})
        wait_until(lambda: collector.requests > 0, "spans are on their way")
        running = exporters(service)
        assert len(running) == COUNT
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: not any(exporter.is_running() for exporter in running), "they have ended")


def test_the_other_end_is_closed() -> None:
    """The exporter sends the spans that it has received by then, without waiting for its interval."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    now = time.time_ns()
    how = Export(None, {"service.name": "a"}, max_queue_size=16, max_batch_size=8, interval_ms=3_600_000)
    span = CallSpan(trace_id, span_id, None, "route", now, now, {"pool.version": "v2"}, tracestate="a=b")
    ours, theirs = socket.socketpair()
    with running_collector() as collector, ours, theirs:
        exporter = subprocess.Popen(
            own_process.command("routing.telemetry.span_exporter", str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            env=own_process.environment({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}),
        )
        theirs.close()
        ours.sendall(b"".join(frame(msgspec.json.encode(message)) for message in (how, Spans([span]))))
        ours.close()
        assert exporter.wait(30) == 0
        one = collector.whole_trace(trace_id, 1).one("route")
        assert attributes(one) == {"pool.version": "v2"}
        assert one.trace_state == "a=b"
        assert collector.resource["service.name"] == "a"
