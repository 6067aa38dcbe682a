"""One service under load on both versions, watched by a real Prometheus, which tells a real Alertmanager."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.dashboards.tools import Prometheus, running_alertmanager, running_prometheus
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

PERCENTAGES = (10, 25, 50)
SCRAPES = 12
"""Scrapes with load between them, for rates to stand on."""
CRASHING_PROGRAMS = 3
"""Each is stopped after three deaths (pools/quarantine.py); together they kill more than twice what the pool holds."""
QUEUE_LIMIT = 8
WORD_COUNTS = ("words", "sentences", "characters", "reading_minutes")


@dataclass
class Watched:
    """A service after its load, and Prometheus' view of it."""

    service: Service
    prometheus: Prometheus
    alertmanager_url: str
    metrics: str
    """`/metrics` after the load."""


class Load:
    """Calls of every kind, well and ill, sent to each version by force and to both by the split."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._round = 0
        counts = [{"name": name, "type": "number"} for name in WORD_COUNTS]
        self._count = service.create("examples.text:word_count", {"text": "string"}, outputs=counts)
        self._echo = service.create("echo", {"nonce": "string"}, metrics=True)
        self._slow_echo = service.create("slow_echo", {"nonce": "string", "seconds": "number"})
        self._fail = service.create("fail", {"message": "string"})
        self._spin = service.create("spins", {})
        self._crashing = [service.create("exits_hard", {"code": "integer"}) for _ in range(CRASHING_PROGRAMS)]

    def run(self) -> None:
        """One round, in which each version is asked for everything that can be counted."""
        self._round += 1
        for version in ("v1", "v2"):
            self._ask({"X-Pool-Version": version})
        for session in range(20):
            self._service.execute(self._count, inputs={"text": "One. Two."}, session_id=f"session-{session}")

    def _ask(self, force: dict[str, str]) -> None:
        for _ in range(20):
            self._service.execute(self._echo, force, inputs={"nonce": "n"})
        self._service.execute(self._echo, force, inputs={"nonce": 1})
        self._service.execute(self._echo, force, nonsense=True)
        self._service.execute("no-such-program", force)
        self._service.execute(self._fail, force, inputs={"message": "as the test wishes"})
        self._service.execute(self._spin, force, timeout_s=0.1)
        self._service.execute(self._crashing[self._round % CRASHING_PROGRAMS], force, inputs={"code": 1})
        inputs = {"nonce": "n", "seconds": 0.03}
        # More at once than the workers and the queue hold: the rest is turned away.
        with ThreadPoolExecutor(2 * QUEUE_LIMIT) as executor:
            for _ in range(2 * QUEUE_LIMIT):
                executor.submit(self._service.execute, self._slow_echo, force, inputs=inputs)


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The service has moved to V2 in steps and back, under load all the while."""
    directory = tmp_path_factory.mktemp("watched")
    with (
        running_service(directory, QUEUE_LIMIT=QUEUE_LIMIT) as service,
        running_alertmanager(directory) as alertmanager_url,
        running_prometheus(directory, target=service.url, alertmanager=alertmanager_url) as prometheus,
    ):
        load = Load(service)
        _wait_for_revision(prometheus, service.client.get("/rollout").json()["revision"])
        for percent in PERCENTAGES:
            load.run()
            _change(service, prometheus, "PATCH", "/rollout", {"canary_percent": percent})
        load.run()
        _change(service, prometheus, "POST", "/rollout/rollback", {"reason": "the test wishes it"})
        while _value(prometheus, "sum(count_over_time(up[5m]))") < SCRAPES:
            load.run()
        yield Watched(service, prometheus, alertmanager_url, service.client.get("/metrics").text)


def _change(service: Service, prometheus: Prometheus, method: str, path: str, body: dict[str, object]) -> None:
    revision = service.client.request(method, path, json=body).raise_for_status().json()["revision"]
    _wait_for_revision(prometheus, revision)


def _wait_for_revision(prometheus: Prometheus, revision: int) -> None:
    wait_until(lambda: _value(prometheus, "max(poolshift_rollout_revision)") == revision, f"a scrape of {revision}")


def _value(prometheus: Prometheus, expression: str) -> float:
    found = prometheus.now(expression)
    return float(found[0]["value"][1]) if found else 0.0
