"""DSPy programs whose calls wait for their LM beside each other, on one worker of the engine `async_pool`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.lm.conftest import EVERYONES_KEY, create, field
from tests.lm.endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, Endpoint
from tests.service.test_errors import problem
from tests.support.service import PROGRAM_MODULES, Service, running_service
from tests.support.waiting import wait_until

CALLS = 12


@pytest.fixture(scope="module")
def service(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker; everyone's LM answers at once."""
    settings = {
        "POOL_VERSION": "v2",
        "V2_ENGINE": "async_pool",
        "V1_POOL_SIZE": 1,
        "V2_POOL_SIZE": 1,
        "LM_MODEL": "openai/test",
        "LM_API_BASE": endpoint.base("answers", "everyone"),
        "LM_API_KEY": EVERYONES_KEY,
        "PROGRAM_MODULES": f"{PROGRAM_MODULES},tests.lm.modules",
    }
    with running_service(tmp_path_factory.mktemp("beside-others"), **settings) as service:
        yield service


def set_lm(service: Service, endpoint: Endpoint, session: str, behaviour: str, name: str) -> None:
    body = {"model": "openai/test", "api_base": endpoint.base(behaviour, name), "api_key": f"sk-{name}"}
    assert service.client.put(f"/sessions/{session}/lm", json=body).status_code == 200


@pytest.mark.parametrize("kind", ["predict", "chain_of_thought"])
def test_each_call_has_the_lm_of_its_session(service: Service, endpoint: Endpoint, kind: str) -> None:
    """All of them wait at the same time. Each gets the answer and the usage of its own LM, with its own key."""
    program = create(service, [field("text")], [field("topic")], kind)
    assert service.execute(program, inputs={"text": "warm"}).status_code == 200
    names = [f"{kind}-{number}" for number in range(CALLS)]
    for name in names:
        set_lm(service, endpoint, name, "holds", name)

    def call(name: str) -> httpx.Response:
        return service.execute(program, inputs={"text": name}, session_id=name)

    with ThreadPoolExecutor(CALLS) as callers:
        calls = [callers.submit(call, name) for name in names]
        wait_until(lambda: all(endpoint.requests[name] for name in names), "all LMs are asked at the same time")
        assert service.pool("v2")["busy"] == CALLS
        for name in reversed(names):
            endpoint.released[name].set()
        answers = [one.result() for one in calls]
    for name, answer in zip(names, answers, strict=True):
        assert answer.json()["outputs"]["topic"] == f"{name} sk-{name}"
        assert answer.json()["usage"] == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
        assert name in endpoint.prompt(name)


def test_a_stream_is_of_its_own_call(service: Service, endpoint: Endpoint) -> None:
    """Two streams whose LMs write at the same time, and stop half-way for each other."""
    program = create(service, [field("text")], [field("topic")])
    names = ["stream-a", "stream-b"]
    for name in names:
        set_lm(service, endpoint, name, "waits", name)

    def call(name: str) -> str:
        return service.execute(program, {"accept": "text/event-stream"}, inputs={"text": name}, session_id=name).text

    with ThreadPoolExecutor(2) as callers:
        streams = [callers.submit(call, name) for name in names]
        wait_until(lambda: all(endpoint.requests[name] for name in names), "both write")
        for name in names:
            endpoint.released[name].set()
        for name, stream in zip(names, streams, strict=True):
            other = names[1 - names.index(name)]
            assert f"{name} sk-{name}" in stream.result()
            assert other not in stream.result()


def test_a_silent_lm_leaves_the_others_alone(service: Service, endpoint: Endpoint) -> None:
    """A call whose LM never answers ends before its deadline; one that waits beside it gets its answer."""
    program = create(service, [field("text")], [field("topic")])
    set_lm(service, endpoint, "patient", "holds", "patient")
    set_lm(service, endpoint, "hopeless", "slow", "hopeless")
    with ThreadPoolExecutor(1) as callers:
        patient = callers.submit(lambda: service.execute(program, inputs={"text": "x"}, session_id="patient"))
        wait_until(lambda: bool(endpoint.requests["patient"]), "the LM is asked")
        hopeless = service.execute(program, inputs={"text": "x"}, session_id="hopeless", timeout_s=1.5)
        problem(hopeless, 502, "lm_error")
        endpoint.released["patient"].set()
        assert patient.result().json()["outputs"] == {"topic": "patient sk-patient"}
    assert service.pool("v2")["totals"]["worker_exits"] == {}


def test_a_failing_lm_is_told_to_its_call_alone(service: Service, endpoint: Endpoint) -> None:
    """And its key to nobody."""
    program = create(service, [field("text")], [field("topic")])
    set_lm(service, endpoint, "held", "holds", "held")
    set_lm(service, endpoint, "broken", "refuses", "broken")
    with ThreadPoolExecutor(1) as callers:
        held = callers.submit(lambda: service.execute(program, inputs={"text": "x"}, session_id="held"))
        wait_until(lambda: bool(endpoint.requests["held"]), "the LM is asked")
        body = problem(service.execute(program, inputs={"text": "x"}, session_id="broken"), 502, "lm_error")
        assert "sk-broken" not in str(body)
        endpoint.released["held"].set()
        assert held.result().json()["outputs"] == {"topic": "held sk-held"}
