"""An LM's text while it writes: `output` events whose chunks add up to the outputs, and one end."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.lm.conftest import EVERYONES_KEY, create, field, on
from tests.lm.endpoint import COMPLETION_TOKENS, FAILS, PIECE, PROMPT_TOKENS, Endpoint
from tests.service.test_errors import crashes, problem
from tests.service.test_faults import exits
from tests.service.test_streaming import EVENTS, parse
from tests.support.service import Service
from tests.support.waiting import wait_until

TEXT = [field("text")]
TOPIC = [field("topic")]
SAID = f"everyone {EVERYONES_KEY}"


def texts(events: list[tuple[str, Any]]) -> dict[str, str]:
    """Joins the chunks of each output."""
    together: dict[str, str] = defaultdict(str)
    for name, data in events:
        assert name == "output"
        assert data.keys() == {"field", "chunk"}
        assert data["chunk"]
        together[data["field"]] += data["chunk"]
    return together


def on_an_lm(service: Service, session: str, base: str) -> str:
    """The session's id, after it was given this endpoint."""
    body = {"model": "openai/test", "api_base": base, "api_key": "sk-a-secret-of-mine"}
    assert service.client.put(f"/sessions/{session}/lm", json=body).status_code == 200
    return session


@pytest.mark.parametrize("program_type", ["predict", "chain_of_thought"])
def test_the_chunks_of_each_text_add_up_to_the_output(lm_service: Service, version: str, program_type: str) -> None:
    """They come piece by piece, under the names that the signature has; what is no text is in the result alone."""
    outputs = [field("size", "integer"), field("größe"), field("class", required=False)]
    program = create(lm_service, TEXT, outputs, program_type)
    answer = lm_service.execute(program, EVENTS | on(version), inputs={"text": "x"})
    *events, (last, result) = parse(answer.text)
    assert last == "result", result
    assert texts(events) == {"größe": SAID, "class": SAID}
    assert len(events) >= 2 * len(SAID) // PIECE - 1
    assert result["outputs"] == {"size": 7, "größe": SAID, "class": SAID}
    assert result["usage"] == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    assert result["pool_version"] == version


def test_reasoning_is_streamed_where_it_is_an_output(lm_service: Service) -> None:
    """Else the caller has not asked for it."""
    shown = create(lm_service, TEXT, [field("reasoning"), *TOPIC], "chain_of_thought")
    *events, _ = parse(lm_service.execute(shown, EVENTS, inputs={"text": "x"}).text)
    assert texts(events) == {"reasoning": SAID, "topic": SAID}
    hidden = create(lm_service, TEXT, TOPIC, "chain_of_thought")
    *events, _ = parse(lm_service.execute(hidden, EVENTS, inputs={"text": "x"}).text)
    assert texts(events) == {"topic": SAID}


def test_a_chunk_comes_while_the_lm_writes(lm_service: Service, endpoint: Endpoint, version: str) -> None:
    """The endpoint writes its second half when the first one's chunks are here."""
    program = create(lm_service, TEXT, TOPIC)
    session = on_an_lm(lm_service, f"waits-{version}", endpoint.base("waits", f"waits-{version}"))
    request = {"inputs": {"text": "x"}, "session_id": session}
    path = f"/programs/{program}/execute"
    with lm_service.client.stream("POST", path, json=request, headers=EVENTS | on(version)) as answer:
        services = answer.iter_text()
        received = next(services)
        assert parse(received)[0][0] == "output"
        endpoint.released[f"waits-{version}"].set()
        *events, (last, result) = parse(received + "".join(services))
    assert last == "result", result
    assert texts(events) == result["outputs"]


def test_who_does_not_listen_is_not_streamed_to(lm_service: Service, endpoint: Endpoint) -> None:
    """The LM is asked for its answer as a whole."""
    program = create(lm_service, TEXT, TOPIC)
    assert lm_service.execute(program, inputs={"text": "x"}).is_success
    assert "stream" not in endpoint.requests["everyone"][-1]
    assert lm_service.execute(program, EVENTS, inputs={"text": "x"}).is_success
    assert endpoint.requests["everyone"][-1]["stream"] is True


def test_an_lm_that_breaks_off_ends_the_stream_with_one_error(
    lm_service: Service, endpoint: Endpoint, version: str
) -> None:
    """After what it had said; no worker dies of it."""
    program = create(lm_service, TEXT, TOPIC)
    session = on_an_lm(lm_service, f"breaks-{version}", endpoint.base("breaks", "broken"))
    died = crashes(lm_service)
    answer = lm_service.execute(program, EVENTS | on(version), inputs={"text": "x"}, session_id=session)
    *events, (last, error) = parse(answer.text)
    assert "broken sk-a-secret-of-mine".startswith(texts(events)["topic"])
    assert last == "error"
    assert (error["code"], error["category"], error["pool_version"]) == ("lm_error", "upstream", version)
    assert "sk-a-secret" not in error["detail"]
    assert crashes(lm_service) == died


@pytest.mark.parametrize("behaviour", FAILS)
def test_an_lm_that_says_nothing_of_use_is_an_ordinary_error(
    lm_service: Service, endpoint: Endpoint, version: str, behaviour: str
) -> None:
    """With its status, as long as no event has gone out."""
    program = create(lm_service, TEXT, TOPIC)
    session = on_an_lm(lm_service, f"streamed-{behaviour}-{version}", endpoint.base(behaviour))
    answer = lm_service.execute(program, EVENTS | on(version), inputs={"text": "x"}, session_id=session)
    problem(answer, 502, "lm_error")
    assert answer.headers.get("retry-after") == ("7" if behaviour == "limits" else None)
    assert "sk-a-secret" not in answer.text


@pytest.mark.parametrize("behaviour", ["slow", "waits"])
def test_a_slow_lm_ends_the_stream_in_time(
    lm_service: Service, endpoint: Endpoint, version: str, behaviour: str
) -> None:
    """Before or amid its text: the error is the last event, and the worker lives on."""
    program = create(lm_service, TEXT, TOPIC)
    session = on_an_lm(lm_service, f"streamed-{behaviour}-{version}", endpoint.base(behaviour, "never-released"))
    died = crashes(lm_service)
    call = {"inputs": {"text": "x"}, "session_id": session, "timeout_s": 2.5}
    *_, (last, error) = parse(lm_service.execute(program, EVENTS | on(version), **call).text)
    assert (last, error["code"]) == ("error", "lm_error")
    assert "in time" in error["detail"]
    assert crashes(lm_service) == died


@pytest.fixture
def leaving(lm_service: Service, endpoint: Endpoint, version: str) -> Iterator[httpx.Response]:
    """A stream that has begun, of an LM that does not go on."""
    program = create(lm_service, TEXT, TOPIC)
    session = on_an_lm(lm_service, f"leaving-{version}", endpoint.base("waits", "left"))
    request = {"inputs": {"text": "x"}, "session_id": session}
    path = f"/programs/{program}/execute"
    with lm_service.client.stream("POST", path, json=request, headers=EVENTS | on(version)) as answer:
        yield answer


def test_a_client_that_leaves_cancels(lm_service: Service, leaving: httpx.Response, version: str) -> None:
    """The pool kills the worker of a client that leaves, and the call of the LM ends with it."""
    before = exits(lm_service, version, "cancelled")
    assert "output" in next(leaving.iter_text())
    leaving.close()
    wait_until(lambda: exits(lm_service, version, "cancelled") == before + 1, "its worker is killed")
