"""The checks of a validation that look at the live service: each finds what is wrong, and says if it knows nothing."""

import os
from pathlib import Path

import pytest

from cli.validation.live import check_error_rate, check_metrics, scrape
from tests.conftest import StartService
from tests.support.waiting import wait_until

NOT_PINNED = pytest.mark.skipif(os.environ.get("POOL_VERSION") is not None, reason="is about both versions at once")


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
