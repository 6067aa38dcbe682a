"""`POOLS=v2` ends V1: at once where V2 has everything, else only if the operator says so."""

import pytest

from tests.conftest import StartService
from tests.support.replicas import said_once
from tests.support.service import Service


def with_calls_on_v1(start_service: StartService, percent: float) -> Service:
    """The folder of a service whose V1 has answered calls, and whose V2 has so much of the traffic."""
    service = start_service()
    echo = service.create("echo", {"nonce": "string"}, id="echo")
    assert service.execute(echo, inputs={"nonce": "a"}).headers["x-pool-version"] == "v1"
    assert service.client.patch("/rollout", json={"canary_percent": percent}).status_code == 200
    assert service.stop() == 0
    return service


def again(service: Service, **settings: str) -> Service:
    """The service of the same folder, with other settings."""
    return Service(service.directory, PORT=service.port, **settings)


@pytest.mark.parametrize("percent", [0, 1, 99.99])
def test_v1_is_not_ended_silently(start_service: StartService, percent: float) -> None:
    """The start ends with one line that says how much would move; with the word it goes on, and later without it."""
    before = with_calls_on_v1(start_service, percent)
    for settings, starts in (({}, False), ({"RETIRE_V1": "anyway"}, True), ({}, True)):
        service = again(before, POOLS="v2", **settings)
        length = len(service.log())
        try:
            service.start(wait=starts)
            if not starts:
                assert service.wait_for_end() == 2
                for line in said_once(service.log()[length:], "POOLS"):
                    assert f"{100 - percent:g} % of the traffic" in line
                    assert "RETIRE_V1=anyway" in line
            else:
                assert service.execute("echo", inputs={"nonce": "b"}).headers["x-pool-version"] == "v2"
                assert service.stop() == 0
        finally:
            service.close()
    assert "V1 is retired before V2 had all of the traffic" in before.log()


def test_v1_is_ended_once_v2_has_everything(start_service: StartService) -> None:
    before = with_calls_on_v1(start_service, 100)
    service = again(before, POOLS="v2")
    try:
        service.start()
        assert service.execute("echo", inputs={"nonce": "b"}).headers["x-pool-version"] == "v2"
    finally:
        service.close()


def test_v1_that_never_answered_ends_without_a_word(start_service: StartService) -> None:
    """Nothing moves: a first try may begin with V2 alone, whatever it was started with before."""
    before = start_service()
    assert before.stop() == 0
    service = again(before, POOLS="v2")
    try:
        service.start()
    finally:
        service.close()
