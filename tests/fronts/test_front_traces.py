"""Traces of calls that fronts run, as a collector has them: those of any other call."""

from collections.abc import Callable

from tests.fronts.conftest import ECHO, Fronted, become_direct, call
from tests.observability.collector import Trace, attributes, running_collector
from tests.observability.conftest import PROGRAMS, traced
from tests.observability.test_traces import SERVER, TREE, assert_nested, is_error, new_ids
from tests.service.test_errors import problem
from tests.support.waiting import wait_until

StartFronted = Callable[..., Fronted]
CALLS = 40
RATIO = 0.75


def test_sampled_calls_of_fronts_have_whole_traces(fronted: StartFronted) -> None:
    """Spans, their parents and attributes are those of a call that the service has run; so are a failed call's."""
    with running_collector() as collector:
        sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": RATIO}
        service = fronted(**traced(collector, **sampler))
        program = service.create("raises_if", ECHO)
        become_direct(service, program, {"nonce": "a"})
        direct = service.direct_calls()
        answers = {call(service.clients[0], program, {"nonce": "a"}).json()["execution_id"] for _ in range(CALLS)}
        assert service.direct_calls() == direct + CALLS

        def traces() -> list[Trace]:
            found = [collector.trace(trace_id) for trace_id in collector.trace_ids]
            whole = [trace for trace in found if len(trace.spans) >= len(TREE)]
            return [trace for trace in whole if attributes(trace.one(SERVER))["execution.id"] in answers]

        wait_until(lambda: len(traces()) >= CALLS // 2, "most calls are traced")
        assert len(traces()) < CALLS
        for trace in traces():
            assert trace.tree() == TREE
            assert_nested(trace)
            server = attributes(trace.one(SERVER))
            assert (server["program.id"], server["pool.version"]) == (program, "v2")
            assert (server["url.path"], server["server.port"]) == (f"/programs/{program}/execute", service.port)
            assert server["http.response.status_code"] == 200
            assert attributes(trace.one("route"))["routing.reason"] == "split"

        failed = [
            problem(call(service.clients[0], program, {"nonce": "raise"}), 500, "program_error") for _ in range(8)
        ]
        answers = {one["execution_id"] for one in failed}
        wait_until(lambda: bool(traces()), "one of them is traced")
        trace = traces()[0]
        assert trace.tree() == TREE
        assert is_error(trace.one(SERVER))
        assert is_error(trace.one("run"))
        assert attributes(trace.one(SERVER))["error.type"] == "program_error"


def test_a_front_goes_on_with_its_client_s_trace(fronted: StartFronted) -> None:
    """A flagged traceparent is the parent of the server's span; one without the flag reaches the program alone."""
    with running_collector() as collector:
        service = fronted(**traced(collector))
        program = service.create(f"{PROGRAMS}:looks_at_its_trace", {}, "object")
        become_direct(service, program, {})
        direct = service.direct_calls()
        trace_id, caller = new_ids()
        answer = call(service.clients[0], program, {}, traceparent=f"00-{trace_id}-{caller}-01", baggage="a=b")
        assert answer.json()["outputs"]["result"]["trace_id"] == trace_id
        trace = collector.whole_trace(trace_id, len(TREE))
        assert trace.one(SERVER).parent_span_id.hex() == caller
        assert_nested(trace)
        other, caller = new_ids()
        answer = call(service.clients[0], program, {}, traceparent=f"00-{other}-{caller}-00")
        assert answer.json()["outputs"]["result"]["trace_id"] == other
        assert service.direct_calls() == direct + 2
        last, caller = new_ids()
        call(service.clients[0], program, {}, traceparent=f"00-{last}-{caller}-01")
        collector.whole_trace(last, len(TREE))
        assert other not in collector.trace_ids
