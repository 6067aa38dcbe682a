"""An LM's key goes in and never comes out: whatever fails, and whoever repeats it."""

import concurrent.futures
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.lm.conftest import EVERYONES_KEY, create, field, on
from tests.lm.endpoint import FAILS, Endpoint
from tests.observability.collector import Collector, running_collector
from tests.observability.conftest import traced
from tests.service.test_errors import problem
from tests.service.test_streaming import EVENTS, parse
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

SECRET = "sk-very-secret-0123456789"
TEXT, TOPIC = [field("text")], [field("topic")]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def talkative(endpoint: Endpoint, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that logs and traces all it can."""
    lm = {"LM_MODEL": "openai/test", "LM_API_BASE": endpoint.base("refuses"), "LM_API_KEY": EVERYONES_KEY}
    settings = traced(collector, LOG_FORMAT="json", LOG_LEVEL="debug", V2_POOL_SIZE=3, **lm)
    with running_service(tmp_path_factory.mktemp("talkative"), **settings) as service:
        yield service


@pytest.mark.parametrize("behaviour", [*FAILS, "breaks", "slow", "unreachable"])
def test_no_failure_shows_the_key(talkative: Service, endpoint: Endpoint, collector: Collector, behaviour: str) -> None:
    """Neither an answer, a stream or a long run, nor the log or the trace of any of them."""
    base = "http://127.0.0.1:9/v1" if behaviour == "unreachable" else endpoint.base(behaviour)
    body = {"model": "openai/test", "api_base": base, "api_key": SECRET}
    assert talkative.client.put(f"/sessions/{behaviour}/lm", json=body).status_code == 200
    program = create(talkative, TEXT, TOPIC)
    traces = [uuid4().hex for _ in range(3)]

    def call(trace: str, headers: dict[str, str]) -> httpx.Response:
        headers = {**headers, **on("v2"), "traceparent": f"00-{trace}-{'1' * 16}-01"}
        return talkative.execute(program, headers, inputs={"text": "x"}, session_id=behaviour, timeout_s=3)

    with concurrent.futures.ThreadPoolExecutor(3) as callers:
        asked = callers.map(call, traces, ({}, EVENTS, {"Prefer": "respond-async"}))
        answer, streamed, accepted = asked
    assert SECRET not in problem(answer, 502, "lm_error")["detail"]
    if streamed.status_code == 200:
        last, error = parse(streamed.text)[-1]
        assert (last, error["code"]) == ("error", "lm_error")
        assert SECRET not in error["detail"]
    else:
        assert SECRET not in problem(streamed, 502, "lm_error")["detail"]
    wait_until(lambda: _execution(talkative, accepted)["status"] == "failed", "the long run has failed")
    execution = _execution(talkative, accepted)
    assert execution["problem"]["code"] == "lm_error"
    assert SECRET not in str(execution)
    wait_until(lambda: all(collector.trace(trace).all("program") for trace in traces), "the traces arrive")
    assert SECRET not in str([collector.trace(trace).spans for trace in traces])
    assert SECRET not in talkative.log()


def _execution(service: Service, accepted: httpx.Response) -> dict[str, Any]:
    execution: dict[str, Any] = service.client.get(accepted.headers["location"]).json()
    return execution


def test_no_resource_shows_a_key(talkative: Service, endpoint: Endpoint) -> None:
    """Nor does an answer that refuses settings with one."""
    body = {"model": "openai/test", "api_base": endpoint.base("refuses"), "api_key": SECRET}
    answers = [talkative.client.put("/sessions/shown/lm", json=body)]
    paths = ("/sessions/shown/lm", "/lm", "/sessions", "/sessions/shown", "/metrics", "/pools", "/executions")
    answers += [talkative.client.get(path) for path in paths]
    for nonsense in ({"temperature": "hot"}, {"api_key": [SECRET]}, {"api_key": f"{SECRET}\n"}, {"surprise": SECRET}):
        answers.append(talkative.client.put("/sessions/shown/lm", json={**body, **nonsense}))
        problem(answers[-1], 422, "invalid_request")
    for answer in answers:
        assert SECRET not in answer.text
        assert EVERYONES_KEY not in answer.text
    assert SECRET not in talkative.log()
    assert EVERYONES_KEY not in talkative.log()


def test_the_environments_key_is_not_stored(talkative: Service) -> None:
    """The service stores only keys from the API, in files that only its own user may read."""
    files = list(talkative.directory.glob("poolshift.db*"))
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    stored = b"".join(path.read_bytes() for path in files)
    assert EVERYONES_KEY.encode() not in stored
    talkative.client.put("/sessions/stored/lm", json={"model": "openai/test", "api_key": "sk-stored-0123456789"})
    assert b"sk-stored-0123456789" in b"".join(path.read_bytes() for path in files)
