"""Single checks of a validation on a service that is broken in one way; whole validations are in `make test-judge`."""

import os
from pathlib import Path

import pytest

from cli.validation.live import check_documentation, check_error_rate, check_metrics, scrape
from cli.validation.measure import Inputs, check_load
from cli.validation.parallel import check_concurrency, check_sessions
from tests.conftest import StartService
from tests.service.test_validate_own_programs import start_with_notes
from tests.support.ramps import FAULTS_ALONE, Traffic, begin, status
from tests.support.replicas import alone
from tests.support.waiting import wait_until

NOT_PINNED = pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="is about both versions at once")


@NOT_PINNED
def test_a_v2_that_raises_is_named_by_its_shadow_calls(start_service: StartService, tmp_path: Path) -> None:
    """Nothing is known before there are calls; then the field that differs is told."""
    environment = tmp_path / "v2.env"
    environment.write_text("RAISE_RATE=1\n")
    service = start_service(
        ENGINE="session_pool_v2", V2_WORKER_ENV_FILE=environment, SHADOW_PERCENT=100, SHADOW_MAX_CPU_PERCENT=100
    )
    assert check_error_rate(service.client).state == "unknown"
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)

    def is_seen() -> bool:
        assert service.execute(program, inputs={"call": 1}).status_code == 200
        return check_error_rate(service.client).state != "unknown"

    wait_until(is_seen, "the shadow calls tell")
    found = check_error_rate(service.client)
    assert (found.state, "$error" in found.evidence) == ("not_met", True), found


@NOT_PINNED
def test_a_v2_that_raises_is_named_by_the_judge(start_service: StartService, tmp_path: Path) -> None:
    """The evidence of organic calls counts before that of shadow calls."""
    environment = tmp_path / "v2.env"
    environment.write_text("RAISE_RATE=0.5\n")
    service = start_service(ENGINE="session_pool_v2", V2_WORKER_ENV_FILE=environment)
    program = service.create("fails_by_environment", {"call": "integer"}, output="integer", idempotent=True)
    with Traffic([service], program):
        begin(service, guardrails=FAULTS_ALONE)
        wait_until(lambda: status(service)["state"] == "rolled_back", "the judge has seen it", 120)
    found = check_error_rate(service.client)
    assert (found.state, "more faults of V2: program" in found.evidence) == ("not_met", True), found


@NOT_PINNED
@alone("each replica has a coordinator of its own")
def test_a_serial_v2_is_seen(start_service: StartService) -> None:
    """Two workers that take turns run one call at once, on both versions."""
    service = start_service(V2_ENGINE="session_pool")
    found = check_concurrency(service.client, {"v1": 2, "v2": 2})
    assert (found.state, "V2 runs 1 calls at once with 2 workers" in found.evidence) == ("not_met", True), found


def test_sessions_that_are_apart_are_met(start_service: StartService) -> None:
    """Their calls see their own programs and models, and the end of a session."""
    found = check_sessions(start_service().client, ["v1", "v2"])
    assert found.state == "met", found


@NOT_PINNED
@pytest.mark.timing
def test_calls_that_queue_up_are_no_fault_of_the_machine(start_service: StartService) -> None:
    """One worker of V2 runs 10 calls a second of the 30 that come: none fails, and V2 is named for it."""
    service = start_service(V2_POOL_SIZE=1)
    program = service.create("sleep", {"seconds": "number"}, output="number")
    found = check_load(service.client, [Inputs(program, {"seconds": 0.1})], 15, 2, {})
    assert (found.state, "queue up on V2" in found.evidence) == ("not_met", True), found


@NOT_PINNED
def test_a_program_needs_a_description(start_service: StartService) -> None:
    """One without is named; instructions are one."""
    service = start_service()

    def found() -> tuple[str, str]:
        outcome = check_documentation(service.client, service.client.get("/programs").json()["items"])
        return outcome.state, outcome.evidence

    service.create("echo", {"nonce": "string"}, id="told", instructions="Returns its text.")
    assert found()[0] == "met"
    service.create("echo", {"nonce": "string"}, id="untold")
    assert found() == ("not_met", "1 programs have no description: untold")


@NOT_PINNED
@pytest.mark.lm
def test_silent_series_of_tokens_are_named(start_service: StartService, tmp_path: Path) -> None:
    """V1 counts the tokens of a program, and V2 calls the model past DSPy."""
    with start_with_notes(start_service, tmp_path) as service:
        inputs = [Inputs("note", {"topic": "tea"})]
        found = check_metrics(service.client, scrape(service.client), 1, ["v1", "v2"], inputs)
        assert service.metric("poolshift_lm_tokens_total", pool_version="v2", model="openai/test") == 0
    assert (found.state, "tokens of note" in found.evidence) == ("not_met", True), found


@NOT_PINNED
def test_metrics_are_met_if_somebody_scrapes_them(start_service: StartService) -> None:
    """The check's own scrapes do not count; a version without series is named."""
    service = start_service(POOLS="v2")
    found = check_metrics(service.client, scrape(service.client), 1, ["v2"])
    assert (found.state, "nobody has scraped" in found.evidence) == ("unknown", True), found
    before = scrape(service.client)
    service.client.get("/metrics")
    assert check_metrics(service.client, before, 1, ["v2"]).state == "met"
    found = check_metrics(service.client, before, 1, ["v1", "v2"])
    assert (found.state, "poolshift_requests" in found.evidence) == ("not_met", True), found
