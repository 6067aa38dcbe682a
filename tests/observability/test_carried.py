"""W3C's headers beside a traceparent, `tracestate` and `baggage`: from the client to a program's own requests."""

import secrets
from typing import Any

import pytest

from tests.conftest import StartService
from tests.observability.collector import Collector
from tests.observability.conftest import MODULES, PROGRAMS, log_lines
from tests.support.service import Service

STATE = "vendor=t61rcWkgMzE,rojo=00f067aa0ba902b7"
BAGGAGE = "tenant=acme,tier=gold"
CARRIED = {"tracestate": STATE, "baggage": BAGGAGE}


def traceparent(flags: str) -> tuple[dict[str, str], str]:
    trace_id = secrets.token_hex(16)
    return {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"}, trace_id


def sent_on(service: Service, headers: dict[str, str]) -> dict[str, str]:
    """The headers that a program would send with a request of its own."""
    program = service.create(f"{PROGRAMS}:looks_at_its_trace", {}, "object")
    answer = service.execute(program, headers)
    assert answer.status_code == 200, answer.text
    sent: dict[str, str] = answer.json()["outputs"]["result"]["sent"]
    return sent


@pytest.mark.parametrize("flags", ["00", "01"])
def test_they_reach_what_a_program_calls(traced_service: Service, flags: str) -> None:
    """A program's own request has the headers unchanged, sampled or not; the next call does not have them."""
    headers, trace_id = traceparent(flags)
    sent = sent_on(traced_service, headers | CARRIED)
    assert sent.pop("traceparent").startswith(f"00-{trace_id}-")
    assert sent == CARRIED
    assert sent_on(traced_service, traceparent(flags)[0]).keys() == {"traceparent"}


def test_they_do_without_an_export(start_service: StartService) -> None:
    """A service that records nothing is no break in its callers' chain."""
    service = start_service(PROGRAM_MODULES=MODULES)
    headers, _ = traceparent("01")
    assert sent_on(service, headers | CARRIED) == headers | CARRIED
    assert sent_on(service, CARRIED) == {"baggage": BAGGAGE}


def test_the_state_is_on_every_span(traced_service: Service, collector: Collector) -> None:
    """Every span has the caller's `tracestate`, the worker's spans too."""
    headers, trace_id = traceparent("01")
    sent_on(traced_service, headers | CARRIED)
    assert {span.trace_state for span in collector.whole_trace(trace_id, 5).spans} == {STATE}


def test_baggage_goes_without_a_trace(traced_service: Service) -> None:
    """`baggage` needs no traceparent; a `tracestate` without a valid one is dropped."""
    for headers in (CARRIED, CARRIED | {"traceparent": "garbage"}):
        sent = sent_on(traced_service, headers)
        assert sent["baggage"] == BAGGAGE
        assert "tracestate" not in sent


@pytest.mark.parametrize(
    "nonsense",
    [
        {"tracestate": "no pair", "baggage": "no pair"},
        {"tracestate": "a=1," * 40, "baggage": "=,=,;"},
        {"tracestate": "a=" + "x" * 9000, "baggage": "a=" + "x" * 9000},
        {"tracestate": "a=\u00e9", "baggage": "a=\u00e9"},
    ],
    ids=["no pairs", "too many", "too long", "not ASCII"],
)
def test_nonsense_is_left_out(traced_service: Service, nonsense: dict[str, str]) -> None:
    """The call is none the worse, and a client cannot fill the log with it."""
    headers, trace_id = traceparent("01")
    encoded: Any = {name: value.encode("latin-1") for name, value in nonsense.items()}
    sent = sent_on(traced_service, headers | encoded)
    assert sent.keys() == {"traceparent"}
    mentions: list[dict[str, Any]] = [line for line in log_lines(traced_service) if "header" in line["event"].lower()]
    assert not mentions
    assert not log_lines(traced_service, trace_id=trace_id)
