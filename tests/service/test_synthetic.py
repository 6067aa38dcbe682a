"""A test's call, which an admin forces on a version, is in no organic figure, however it ends."""

import json

import pytest

from tests.support.service import Service
from tests.support.waiting import wait_until

ECHO = {"nonce": "string"}
BODIES: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "of an unknown program": ("no-such-program/execute", b'{"inputs": {}}', {}),
    "malformed": ("{program}/execute", b"{", {}),
    "too large": ("{program}/execute", json.dumps({"inputs": {"nonce": "x" * 2**21}}).encode(), {}),
    "with wrong inputs": ("{program}/execute", b'{"inputs": {"nonce": 1}}', {}),
    "well": ("{program}/execute", b'{"inputs": {"nonce": "a"}}', {}),
    "as a stream": ("{program}/execute", b'{"inputs": {"nonce": "a"}}', {"accept": "text/event-stream"}),
    "as a job": ("{program}/execute", b'{"inputs": {"nonce": "a"}}', {"prefer": "respond-async"}),
    "with a key": ("{program}/execute", b'{"inputs": {"nonce": "a"}}', {"idempotency-key": "a"}),
    "as a batch": ("{program}/batch", b'{"inputs": [{"nonce": "a"}, {"nonce": 1}]}', {}),
}


def organic(service: Service) -> dict[str, float]:
    """The figures that a call of a client changes."""
    total, tests = (service.metric("poolshift_requests_total", **labels) for labels in ({}, {"operation": "synthetic"}))
    names = ("poolshift_errors_total", "poolshift_routing_decisions_total")
    return {"requests": total - tests, **{name: service.metric(name) for name in names}}


def counted(service: Service, version: str) -> float:
    return service.metric("poolshift_requests_total", operation="synthetic", pool_version=version)


@pytest.mark.parametrize("way", BODIES)
def test_a_test_is_in_no_organic_figure(shared_service: Service, way: str, version: str) -> None:
    """Requests count it under its operation alone: by outcome, for the version that it was forced on."""
    service = shared_service
    program = service.create("echo", ECHO)
    before, tests = organic(service), counted(service, version)
    path, body, headers = BODIES[way]
    forced = {"x-pool-version": version, "x-poolshift-synthetic": "true", "content-type": "application/json"}
    url = f"/programs/{path.format(program=program)}"
    answer = service.client.post(url, content=body, headers={**forced, **headers})
    assert answer.status_code in (200, 202, 404, 413, 422), answer.text
    items = 2 if "batch" in way else 1
    wait_until(lambda: counted(service, version) == tests + items, "it is counted as a test's call")
    assert organic(service) == before
