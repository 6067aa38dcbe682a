"""A call's trace, as a collector has it: the whole tree, from the socket to the worker, whatever the call comes to."""

import json
import re
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.conftest import StartService
from tests.observability.collector import Collector, Trace, attributes, running_collector
from tests.observability.conftest import MODULES, PROGRAMS, traced
from tests.support.service import Service
from tests.support.waiting import wait_until

SERVER = "POST /programs/{program_id}/execute"
TREE = {SERVER: None, "route": SERVER, "queue": SERVER, "run": SERVER, "program": "run"}
ECHO = {"nonce": "string"}


def new_ids() -> tuple[str, str]:
    return secrets.token_hex(16), secrets.token_hex(8)


def sampled_execute(service: Service, program: str, **body: Any) -> tuple[Any, str]:
    """Executes within a trace of the caller's; the answer and the trace's id."""
    trace_id, span_id = new_ids()
    answer = service.execute(program, {"traceparent": f"00-{trace_id}-{span_id}-01"}, **body)
    return answer, trace_id


def is_error(span: Span) -> bool:
    return bool(span.status.code == Status.STATUS_CODE_ERROR)


def assert_nested(trace: Trace) -> None:
    """Each span lies within its parent, and the service's own follow each other."""
    spans = {span.span_id: span for span in trace.spans}
    for span in trace.spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        parent = spans.get(span.parent_span_id)
        if parent is not None:
            assert parent.start_time_unix_nano <= span.start_time_unix_nano, span.name
            assert span.end_time_unix_nano <= parent.end_time_unix_nano, span.name
    assert trace.one("route").end_time_unix_nano <= trace.one("queue").start_time_unix_nano
    assert trace.one("queue").end_time_unix_nano <= trace.one("run").start_time_unix_nano


def test_a_call_that_goes_well(traced_service: Service, collector: Collector, version: str) -> None:
    """The tree is whole, its parents are right, and the attributes tell version, rollout, program and execution."""
    program = traced_service.create("echo", ECHO)
    trace_id, caller = new_ids()
    answer = traced_service.execute(program, {"traceparent": f"00-{trace_id}-{caller}-01"}, inputs={"nonce": "a"})
    trace = collector.whole_trace(trace_id, 5)
    assert trace.tree() == TREE
    assert_nested(trace)
    assert not any(is_error(span) for span in trace.spans)

    server = trace.one(SERVER)
    assert server.kind == Span.SPAN_KIND_SERVER
    assert server.parent_span_id.hex() == caller
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/programs/{program_id}/execute",
        "http.response.status_code": 200,
        "url.path": f"/programs/{program}/execute",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": traced_service.port,
        "pool.version": version,
        "rollout.revision": traced_service.client.get("/rollout").json()["revision"],
        "program.id": program,
        "execution.id": answer.json()["execution_id"],
    }
    assert attributes(trace.one("route"))["routing.reason"] == "pinned"
    assert attributes(trace.one("queue")) == {"pool.version": version}
    pids = {worker["pid"] for worker in traced_service.pool(version)["workers"]}
    for name in ("run", "program"):
        assert attributes(trace.one(name))["process.pid"] in pids
    assert collector.resource["service.name"] == "poolshift"


def test_a_trace_may_begin_here(traced_service: Service, collector: Collector) -> None:
    """A call without a traceparent gets a trace of its own, and its program's spans are in it."""
    program = traced_service.create(f"{PROGRAMS}:looks_at_its_trace", {}, "object")
    seen = traced_service.execute(program).json()["outputs"]["result"]
    trace = collector.whole_trace(seen["trace_id"], 5)
    assert trace.tree() == TREE
    assert trace.one(SERVER).parent_span_id == b""
    assert trace.one("program").span_id.hex() == seen["span_id"]
    assert seen["sampled"] is True


def test_a_program_fails(traced_service: Service, collector: Collector) -> None:
    """The spans it failed in say so with the code, and none has the message, in which inputs may stand."""
    program = traced_service.create("fail", {"message": "string"})
    answer, trace_id = sampled_execute(traced_service, program, inputs={"message": "the number is 4711"})
    assert answer.status_code == 500
    trace = collector.whole_trace(trace_id, 5)
    assert trace.tree() == TREE
    assert_nested(trace)
    for name in ("program", "run", SERVER):
        assert is_error(trace.one(name))
        assert attributes(trace.one(name))["error.type"] == "program_error"
    assert not is_error(trace.one("queue"))
    assert "4711" not in str(trace.spans)


def test_a_call_times_out(traced_service: Service, collector: Collector) -> None:
    """The run is an error; the worker, killed, has not told of the program."""
    program = traced_service.create("sleep", {"seconds": "number"}, "number")
    answer, trace_id = sampled_execute(traced_service, program, inputs={"seconds": 60}, timeout_s=0.2)
    assert answer.status_code == 504
    trace = collector.whole_trace(trace_id, 4)
    assert trace.tree() == {name: parent for name, parent in TREE.items() if name != "program"}
    assert_nested(trace)
    for name in ("run", SERVER):
        assert is_error(trace.one(name))
        assert attributes(trace.one(name))["error.type"] == "execution_timeout"


def test_the_clients_fault_is_no_error_of_the_server(traced_service: Service, collector: Collector) -> None:
    """A 4xx leaves the server's span as it is, by the semantic conventions; where it never got to a pool, no run."""
    answer, trace_id = sampled_execute(traced_service, "nobody")
    assert answer.status_code == 404
    trace = collector.whole_trace(trace_id, 2)
    assert trace.tree() == {SERVER: None, "route": SERVER}
    assert not is_error(trace.one(SERVER))
    assert attributes(trace.one(SERVER))["http.response.status_code"] == 404
    assert "program.id" not in attributes(trace.one(SERVER))

    program = traced_service.create("echo", ECHO)
    answer, trace_id = sampled_execute(traced_service, program, inputs={"nonce": 1})
    assert answer.status_code == 422
    trace = collector.whole_trace(trace_id, 5)
    assert not is_error(trace.one(SERVER))
    assert attributes(trace.one("run"))["error.type"] == "invalid_inputs"


def test_a_call_is_run_again(traced_service: Service, collector: Collector, tmp_path: Path) -> None:
    """Each run is a span of its own: the worker of the first died, that of the second tells of the program."""
    program = traced_service.create("crashes_once", {"directory": "string"}, idempotent=True)
    answer, trace_id = sampled_execute(traced_service, program, inputs={"directory": str(tmp_path)})
    assert answer.status_code == 200
    trace = collector.whole_trace(trace_id, 7)
    first, second = trace.all("run")
    assert attributes(first)["error.type"] == "worker_crashed"
    assert not is_error(second)
    assert trace.one("program").parent_span_id == second.span_id
    assert len(trace.all("queue")) == 2


def test_nobody_waits_for_the_answer(traced_service: Service, collector: Collector, tmp_path: Path) -> None:
    """A client that goes away leaves a trace that says so."""
    program = traced_service.create("hold", {"directory": "string", "name": "string"})
    trace_id, span_id = new_ids()
    body = json.dumps({"inputs": {"directory": str(tmp_path), "name": "here"}})
    with socket.create_connection(("127.0.0.1", traced_service.port)) as client:
        client.sendall(
            f"POST /programs/{program}/execute HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
            f"traceparent: 00-{trace_id}-{span_id}-01\r\n\r\n{body}".encode()
        )
        wait_until(lambda: any(tmp_path.iterdir()), "the program runs")
    trace = collector.whole_trace(trace_id, 4)
    for name in ("run", SERVER):
        assert attributes(trace.one(name))["error.type"] == "cancelled"


@pytest.mark.parametrize("header", [{"accept": "text/event-stream"}, {"prefer": "respond-async"}])
def test_streams_and_long_runs_are_traced(
    traced_service: Service, collector: Collector, header: dict[str, str]
) -> None:
    """The tree is the same, although a long run ends after its answer."""
    program = traced_service.create("fail", {"message": "string"})
    trace_id, span_id = new_ids()
    traceparent = {"traceparent": f"00-{trace_id}-{span_id}-01"}
    answer = traced_service.execute(program, {**traceparent, **header}, inputs={"message": "a"})
    assert answer.status_code < 300 or "accept" in header
    trace = collector.whole_trace(trace_id, 5)
    assert trace.tree() == TREE
    assert attributes(trace.one("run"))["error.type"] == "program_error"


@pytest.mark.parametrize(
    ("function", "inputs", "code"),
    [
        ("steps_then_fail", {"count": 2}, "program_error"),
        ("steps_then_crash", {"directory": "", "count": 2}, "worker_crashed"),
    ],
)
def test_a_stream_that_ends_in_an_error(
    traced_service: Service, collector: Collector, tmp_path: Path, function: str, inputs: dict[str, Any], code: str
) -> None:
    """The span is an error, although the status was 200 before the error."""
    if "directory" in inputs:
        inputs = inputs | {"directory": str(tmp_path)}
    kinds = {"directory": "string", "count": "integer"}
    program = traced_service.create(function, {name: kinds[name] for name in inputs}, "integer")
    trace_id, span_id = new_ids()
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01", "accept": "text/event-stream"}
    answer = traced_service.execute(program, headers, inputs=inputs)
    assert answer.status_code == 200
    assert f'"code":"{code}"' in answer.text
    trace = collector.whole_trace(trace_id, 5 if code == "program_error" else 4)
    server = trace.one(SERVER)
    assert is_error(server)
    assert attributes(server)["error.type"] == code
    assert attributes(server)["http.response.status_code"] == 200


def test_a_long_run_is_cancelled(traced_service: Service, collector: Collector, tmp_path: Path) -> None:
    """The span of the run is an error, and the span of the answer is not."""
    program = traced_service.create("hold", {"directory": "string", "name": "string"})
    trace_id, span_id = new_ids()
    header = {"traceparent": f"00-{trace_id}-{span_id}-01", "prefer": "respond-async"}
    answer = traced_service.execute(program, header, inputs={"directory": str(tmp_path), "name": "here"})
    assert answer.status_code == 202
    wait_until(lambda: any(tmp_path.iterdir()), "the program runs")
    assert traced_service.client.delete(answer.headers["location"]).status_code < 300
    trace = collector.whole_trace(trace_id, 4)
    assert attributes(trace.one("run"))["error.type"] == "cancelled"
    assert not is_error(trace.one(SERVER))


def test_a_full_queue_is_in_the_trace(start_service: StartService, collector: Collector, tmp_path: Path) -> None:
    """A call that was shed waited for nothing: its queue is the error, and there is no run."""
    service = start_service(**traced(collector, POOL_VERSION="v1", QUEUE_LIMIT=0, DRAIN_TIMEOUT_S=0.1))
    program = service.create("echo", ECHO)
    holder = service.create("hold", {"directory": "string", "name": "string"})
    held = {"directory": str(tmp_path), "name": "here"}
    assert service.execute(holder, {"prefer": "respond-async"}, inputs=held).status_code == 202
    wait_until(lambda: any(tmp_path.glob("here.*")), "the coordinator has a call")
    answer, trace_id = sampled_execute(service, program, inputs={"nonce": "a"})
    assert answer.json()["code"] == "pool_overloaded"
    trace = collector.whole_trace(trace_id, 3)
    assert trace.tree() == {SERVER: None, "route": SERVER, "queue": SERVER}
    assert attributes(trace.one("queue"))["error.type"] == "pool_overloaded"
    assert attributes(trace.one(SERVER))["error.type"] == "pool_overloaded"


def test_what_a_program_records_is_in_the_trace(traced_service: Service, collector: Collector) -> None:
    """Spans of `opentelemetry-api`, an LM's call for instance, hang under `program` with all they have."""
    program = traced_service.create(f"{PROGRAMS}:records", {"count": "integer"}, "integer")
    answer, trace_id = sampled_execute(traced_service, program, inputs={"count": 2})
    assert answer.status_code == 200
    trace = collector.whole_trace(trace_id, 8)
    assert trace.tree() == {**TREE, "chat": "program", "step 0": "chat", "step 1": "chat"}
    chat = trace.one("chat")
    assert chat.kind == Span.SPAN_KIND_CLIENT
    assert attributes(chat) == {"gen_ai.request.model": "m"}
    (event,) = trace.one("step 1").events
    assert event.name == "token"
    assert attributes(event)["number"] == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_program_says_more_of_its_span(traced_service: Service, collector: Collector, fails: bool) -> None:
    """The program's additions are on its one span, and spans within it are nested, whenever they began."""
    program = traced_service.create(f"{PROGRAMS}:speaks_of_itself", {"fails": "boolean"})
    answer, trace_id = sampled_execute(traced_service, program, inputs={"fails": fails})
    trace = collector.whole_trace(trace_id, 7)
    assert trace.tree() == {**TREE, "first": "program", "second": "program"}
    assert_nested(trace)
    span = trace.one("program")
    assert {"one": 1, "two": 2, "program.id": program}.items() <= attributes(span).items()
    assert [event.name for event in span.events] == ["happened", "exception"]
    assert is_error(span) is fails
    assert attributes(span).get("error.type") == ("program_error" if fails else None)
    if not fails:
        assert answer.json()["outputs"]["result"] == span.span_id.hex()


def test_a_program_raises_within_its_span(traced_service: Service, collector: Collector) -> None:
    """A program may enter its span as one of the SDK's, which records the exception."""
    program = traced_service.create(f"{PROGRAMS}:raises_within_its_span", {})
    _, trace_id = sampled_execute(traced_service, program)
    span = collector.whole_trace(trace_id, 5).one("program")
    assert is_error(span)
    assert [event.name for event in span.events] == ["exception"]


def test_a_program_keeps_its_span(start_service: StartService, collector: Collector) -> None:
    """After the call it is over: what is said to it then is nobody's, and exported once it stays."""
    service = start_service(**traced(collector, POOL_VERSION="v2", V2_POOL_SIZE=1))
    program = service.create(f"{PROGRAMS}:keeps_its_span", {}, "boolean")
    first, second = (sampled_execute(service, program) for _ in range(2))
    assert [answer.json()["outputs"]["result"] for answer, _ in (first, second)] == [False, False]
    for _, trace_id in (first, second):
        assert "late" not in attributes(collector.whole_trace(trace_id, 5).one("program"))


def test_threads_of_a_program_touch_its_span(traced_service: Service, collector: Collector) -> None:
    """They touch one and the same, and no span of theirs has its id."""
    program = traced_service.create(f"{PROGRAMS}:touches_its_span_at_once", {"threads": "integer"}, "integer")
    _, trace_id = sampled_execute(traced_service, program, inputs={"threads": 8})
    trace = collector.whole_trace(trace_id, 5 + 8)
    assert {f"thread {number}" for number in range(8)} <= attributes(trace.one("program")).keys()
    assert trace.tree() == {**TREE, **{f"thread {number}": "program" for number in range(8)}}
    assert len({span.span_id for span in trace.spans}) == 5 + 8


def test_what_a_program_records_is_bounded(traced_service: Service, collector: Collector) -> None:
    """A thousand spans of one execution: a part arrives, the program's own among them, which tells of the rest."""
    program = traced_service.create(f"{PROGRAMS}:records", {"count": "integer"}, "integer")
    answer, trace_id = sampled_execute(traced_service, program, inputs={"count": 1000})
    assert answer.status_code == 200
    trace = collector.whole_trace(trace_id, 5 + 128)
    assert attributes(trace.one("program"))["program.dropped_spans"] == 1001 - 128


def test_a_program_records_nonsense(traced_service: Service, collector: Collector) -> None:
    """Spans that nobody could read are left out; the call, its worker and the other spans are none the worse."""
    program = traced_service.create(f"{PROGRAMS}:records_nonsense", {})
    answer, trace_id = sampled_execute(traced_service, program)
    assert answer.status_code == 200
    trace = collector.whole_trace(trace_id, 6)
    assert trace.tree() == {**TREE, "fine": "program"}
    assert attributes(trace.one("program"))["program.dropped_spans"] == 2


def test_sampling_does_not_change_what_a_program_draws(traced_service: Service) -> None:
    """A seed gives the same numbers, sampled or not."""
    program = traced_service.create(f"{PROGRAMS}:draws", {}, "number")
    sampled, _ = sampled_execute(traced_service, program)
    trace_id, span_id = new_ids()
    unsampled = traced_service.execute(program, {"traceparent": f"00-{trace_id}-{span_id}-00"})
    assert sampled.json()["outputs"] == unsampled.json()["outputs"]


def test_a_caller_that_does_not_sample(traced_service: Service, collector: Collector) -> None:
    """Nothing is recorded; the program still sees its caller's trace, and hands it on unsampled."""
    program = traced_service.create(f"{PROGRAMS}:looks_at_its_trace", {}, "object")
    trace_id, span_id = new_ids()
    answer = traced_service.execute(program, {"traceparent": f"00-{trace_id}-{span_id}-00"})
    assert answer.json()["outputs"]["result"] == {
        "trace_id": trace_id,
        "span_id": span_id,
        "sampled": False,
        "sent": {"traceparent": f"00-{trace_id}-{span_id}-00"},
    }
    _, later = sampled_execute(traced_service, program)
    collector.whole_trace(later, 5)
    assert trace_id not in collector.trace_ids


@pytest.mark.parametrize(
    "traceparent",
    [
        "garbage",
        "00-{0}-{1}",
        "00-{0}-{1}-01-more",
        "ff-{0}-{1}-01",
        "00-00000000000000000000000000000000-{1}-01",
        "00-{0}-0000000000000000-01",
        "00-{2}-{1}-01",
    ],
)
def test_a_malformed_traceparent_is_none(traced_service: Service, collector: Collector, traceparent: str) -> None:
    """W3C: a header that makes no sense starts a new trace."""
    program = traced_service.create(f"{PROGRAMS}:looks_at_its_trace", {}, "object")
    trace_id, span_id = new_ids()
    header = traceparent.format(trace_id, span_id, trace_id.upper()[:-1] + "F")
    seen = traced_service.execute(program, {"traceparent": header}).json()["outputs"]["result"]
    assert seen["trace_id"] != trace_id
    assert collector.whole_trace(seen["trace_id"], 5).one(SERVER).parent_span_id == b""


def test_a_later_version_of_the_header_is_read(traced_service: Service, collector: Collector) -> None:
    """W3C: what follows the flags in a higher version does not matter."""
    program = traced_service.create("echo", ECHO)
    trace_id, span_id = new_ids()
    traced_service.execute(program, {"traceparent": f"01-{trace_id}-{span_id}-01-what"}, inputs={"nonce": "a"})
    assert collector.whole_trace(trace_id, 5).one(SERVER).parent_span_id.hex() == span_id


def test_exemplars_lead_from_the_metrics_to_the_traces(traced_service: Service, version: str) -> None:
    """OpenMetrics shows sampled calls in the latency's buckets; the text format has no place for them."""
    program = traced_service.create("echo", ECHO)
    _, trace_id = sampled_execute(traced_service, program, inputs={"nonce": "a"})
    open_metrics = traced_service.client.get("/metrics", headers={"accept": "application/openmetrics-text"}).text
    exemplars = re.findall(
        r'poolshift_request_duration_seconds_bucket\{(?:replica="\d",)?le="[^"]+",operation="execute",'
        rf'pool_version="{version}"\}} '
        r'\S+ # \{trace_id="([0-9a-f]{32})"\}',
        open_metrics,
    )
    assert trace_id in exemplars
    assert "trace_id" not in traced_service.client.get("/metrics").text


def test_by_default_one_in_a_hundred(start_service: StartService) -> None:
    """A caller's sampled call is always recorded; of the others the ratio, none for 0 and each for 1."""
    with running_collector() as collector:
        settings = traced(collector)
        del settings["OTEL_TRACES_SAMPLER"]
        service = start_service(**settings)
        program = service.create("echo", ECHO)
        for _ in range(20):
            service.execute(program, inputs={"nonce": "a"})
        _, trace_id = sampled_execute(service, program, inputs={"nonce": "a"})
        collector.whole_trace(trace_id, 5)
        # Twenty of twenty by chance: once in 10⁴⁰ runs.
        assert len(collector.trace_ids) < 21


def test_a_program_sees_its_trace_without_an_export(start_service: StartService) -> None:
    """The program's own exporter, if it has one, can go on with the caller's trace."""
    service = start_service(PROGRAM_MODULES=MODULES)
    program = service.create(f"{PROGRAMS}:looks_at_its_trace", {}, "object")
    trace_id, span_id = new_ids()
    for flags in ("00", "01"):
        traceparent = f"00-{trace_id}-{span_id}-{flags}"
        seen = service.execute(program, {"traceparent": traceparent}).json()["outputs"]["result"]
        assert seen["sent"] == {"traceparent": traceparent}
    for malformed in (b"garbage", f"01-{trace_id}-{span_id}-01-".encode() + b"\xff"):
        answer = service.client.post(
            f"/programs/{program}/execute", json={"inputs": {}}, headers={b"traceparent": malformed}
        )
        assert answer.json()["outputs"]["result"]["sent"] == {}


def test_a_collector_that_hangs_costs_spans_and_no_call(start_service: StartService) -> None:
    """Calls go on while nothing is taken; what the queue has no room for is counted; the service ends in time."""
    with running_collector("hangs") as collector:
        service = start_service(
            **traced(collector, CANARY_PERCENT=50, OTEL_BSP_MAX_QUEUE_SIZE=16, OTEL_BSP_MAX_EXPORT_BATCH_SIZE=8)
        )
        program = service.create("echo", ECHO)
        answers = [service.execute(program, inputs={"nonce": "a"}) for _ in range(40)]
        assert {answer.status_code for answer in answers} == {200}
        wait_until(lambda: collector.requests > 0, "the collector is asked")
        # 40 calls of 5 spans: at most a batch is on its way, and the queue is full.
        assert service.metric("poolshift_trace_spans_total", outcome="dropped") >= 200 - 8 - 16
        assert service.metric("poolshift_trace_spans_total", outcome="exported") == 0
        assert service.stop(timeout_s=15) == 0
        assert "the collector did not take the last spans" in service.log()


def test_a_collector_that_is_not_there(start_service: StartService) -> None:
    """Nobody listens: the service starts, serves, counts what is lost, and ends."""
    with running_collector() as gone:
        pass
    service = start_service(**traced(gone, CANARY_PERCENT=50, OTEL_EXPORTER_OTLP_TIMEOUT=0.2))
    program = service.create("echo", ECHO)
    answers = [service.execute(program, inputs={"nonce": "a"}) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}
    wait_until(lambda: service.metric("poolshift_trace_spans_total", outcome="failed") == 50, "all are lost")
    assert service.stop(timeout_s=15) == 0


def test_each_item_of_a_batch_has_its_spans(traced_service: Service, collector: Collector) -> None:
    """All are in the caller's trace, each below a span of its own that names the item's execution."""
    program = traced_service.create("echo", ECHO)
    trace_id, caller = new_ids()
    answer = traced_service.client.post(
        f"/programs/{program}/batch",
        json={"inputs": [{"nonce": str(number)} for number in range(3)]},
        headers={"traceparent": f"00-{trace_id}-{caller}-01"},
    )
    trace = collector.whole_trace(trace_id, 15)
    servers = [span for span in trace.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert {span.name for span in servers} == {"POST /programs/{program_id}/batch"}
    assert {span.parent_span_id.hex() for span in servers} == {caller}
    assert {attributes(span)["http.route"] for span in servers} == {"/programs/{program_id}/batch"}
    executions = {attributes(span)["execution.id"] for span in servers}
    assert executions == {item["execution_id"] for item in answer.json()["items"]}
    assert sorted(span.name for span in trace.spans if span not in servers) == sorted([*TREE.keys() - {SERVER}] * 3)
