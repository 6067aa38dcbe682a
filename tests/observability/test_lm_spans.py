"""An LM's calls in the trace of the call that they are made for, on an endpoint of the tests' own."""

from collections.abc import Iterator

import pytest

from tests.lm.conftest import create, field
from tests.lm.endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, Endpoint, running_endpoint
from tests.observability.collector import Collector, attributes
from tests.observability.conftest import traced
from tests.observability.test_traces import TREE, is_error, new_ids, sampled_execute
from tests.support.service import Service, running_service

pytestmark = pytest.mark.lm

CHAT = "chat test"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def service(collector: Collector, endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"LM_MODEL": "openai/test", "LM_API_BASE": endpoint.base("answers"), "LM_API_KEY": "sk-secret"}
    with running_service(tmp_path_factory.mktemp("lm-spans"), **traced(collector, **settings)) as service:
        yield service


def test_an_lms_call_is_under_its_program(service: Service, collector: Collector) -> None:
    """With model and tokens, by the semantic conventions; prompt, answer and key are in no span."""
    program = create(service, [field("question")], [field("answer")])
    answer, trace_id = sampled_execute(service, program, inputs={"question": "what is confidential?"})
    assert answer.status_code == 200, answer.text
    trace = collector.whole_trace(trace_id, 6)
    assert trace.tree() == {**TREE, CHAT: "program"}
    assert attributes(trace.one(CHAT)) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "test",
        "gen_ai.usage.input_tokens": PROMPT_TOKENS,
        "gen_ai.usage.output_tokens": COMPLETION_TOKENS,
    }
    told = "".join(map(str, trace.spans))
    assert all(secret not in told for secret in ("confidential", "sk-secret", answer.json()["outputs"]["answer"]))


def test_a_streamed_call_has_the_same_tree(service: Service, collector: Collector, endpoint: Endpoint) -> None:
    """Tokens come in a loop of their own; their span hangs where it would without."""
    lm = {"model": "openai/test", "api_base": endpoint.base("answers"), "api_key": "sk-other"}
    service.client.put("/sessions/streams/lm", json=lm).raise_for_status()
    program = create(service, [field("question")], [field("answer")])
    trace_id, span_id = new_ids()
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01", "accept": "text/event-stream"}
    answer = service.execute(program, headers, inputs={"question": "q"}, session_id="streams")
    assert "event: result" in answer.text
    assert collector.whole_trace(trace_id, 6).tree() == {**TREE, CHAT: "program"}


@pytest.mark.parametrize("behaviour", ["fails", "slow"])
def test_an_lm_that_fails(service: Service, collector: Collector, endpoint: Endpoint, behaviour: str) -> None:
    """The span of its call is the error; so are those above."""
    session = f"session-{behaviour}"
    lm = {"model": "openai/test", "api_base": endpoint.base(behaviour), "api_key": "sk-other"}
    service.client.put(f"/sessions/{session}/lm", json=lm).raise_for_status()
    program = create(service, [field("question")], [field("answer")])
    answer, trace_id = sampled_execute(service, program, inputs={"question": "q"}, session_id=session, timeout_s=2)
    assert answer.json()["code"] == "lm_error"
    trace = collector.whole_trace(trace_id, 6)
    assert is_error(trace.one(CHAT))
    assert is_error(trace.one("program"))


def test_an_unsampled_call_has_none(service: Service, collector: Collector) -> None:
    """Nor does its worker, that was sampled before, record anything of it."""
    program = create(service, [field("question")], [field("answer")])
    trace_id, span_id = new_ids()
    assert service.execute(program, {"traceparent": f"00-{trace_id}-{span_id}-00"}, inputs={"question": "q"}).is_success
    _, later = sampled_execute(service, program, inputs={"question": "q"})
    collector.whole_trace(later, 6)
    assert trace_id not in collector.trace_ids
