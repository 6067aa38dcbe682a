"""A shadow call has a trace of its own, which is linked to the trace of the call that it copies."""

from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.observability.collector import Collector, attributes
from tests.observability.conftest import traced
from tests.observability.test_traces import SERVER, sampled_execute
from tests.support.service import running_service
from tests.support.waiting import wait_until


def test_a_shadow_call_is_linked_to_the_call_that_it_copies(collector: Collector, tmp_path: Path) -> None:
    settings = traced(collector, SHADOW_PERCENT=100, SHADOW_MAX_CPU_PERCENT=100)
    with running_service(tmp_path, **settings) as service:
        program = service.create("echo", {"nonce": "string"}, idempotent=True)
        _, trace_id = sampled_execute(service, program, inputs={"nonce": "a"})
        server = collector.whole_trace(trace_id, 5).one(SERVER)

        def linked() -> list[Span]:
            traces = [collector.trace(one) for one in collector.trace_ids]
            spans = [span for trace in traces for span in trace.all("shadow")]
            return [span for span in spans if any(link.trace_id.hex() == trace_id for link in span.links)]

        wait_until(lambda: bool(linked()), "the shadow call is exported")
        (shadow,) = linked()
        assert shadow.links[0].span_id == server.span_id
        assert shadow.trace_id != server.trace_id
        assert shadow.parent_span_id == b""
        assert attributes(shadow) == {"pool.version": "v2", "program.id": program}
        trace = collector.whole_trace(shadow.trace_id.hex(), 3)
        assert trace.tree() == {"shadow": None, "run": "shadow", "program": "run"}
