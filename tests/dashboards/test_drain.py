"""A shutdown that takes long, as an operator sees it."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartService
from tests.dashboards.tools import (
    DASHBOARDS,
    WHILE_DRAINING,
    filled_in,
    metrics_in,
    panels,
    running_alertmanager,
    running_prometheus,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.prometheus, pytest.mark.timing]


def test_a_drain_that_runs_out_of_time_is_seen(start_service: StartService, tmp_path: Path) -> None:
    """While a call holds up the shutdown the panel counts down and the alert arrives at Alertmanager."""
    expressions = [
        target["expr"]
        for name in DASHBOARDS
        for panel in panels(name)
        for target in panel["targets"]
        if WHILE_DRAINING in metrics_in(target["expr"])
    ]
    assert expressions
    service = start_service(DRAIN_TIMEOUT_S=14)  # less than the alert's 15: it may fire from the first scrape on
    held = service.create("hold", {"directory": "string", "name": "string"})
    with (
        running_alertmanager(tmp_path) as alertmanager_url,
        running_prometheus(tmp_path, target=service.url, alertmanager=alertmanager_url) as prometheus,
        ThreadPoolExecutor() as executor,
    ):
        call = executor.submit(service.execute, held, inputs={"directory": str(tmp_path), "name": "held"})
        wait_until(lambda: any(tmp_path.glob("held.*")), "the call runs")
        wait_until(lambda: bool(prometheus.now(WHILE_DRAINING)), "a scrape")
        assert not any(prometheus.since_start(filled_in(expression)) for expression in expressions)

        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)

        def alerts() -> list[str]:
            answer = httpx.get(f"{alertmanager_url}/api/v2/alerts").raise_for_status().json()
            return [alert["labels"]["alertname"] for alert in answer]

        wait_until(lambda: "PoolshiftDrainOverrun" in alerts(), "the alert")
        # The rule and the panel are evaluated at different moments: the alert may be there first.
        wait_until(lambda: all(prometheus.since_start(filled_in(one)) for one in expressions), "the panel's countdown")
        (tmp_path / "go").touch()
        assert call.result().json()["outputs"] == {"result": "held"}
