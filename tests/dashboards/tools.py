"""Prometheus and Alertmanager in processes of their own, and what a test asks of them."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from dashboards.build import generate
from tests.support.service import ROOT, free_port
from tests.support.tools import tool
from tests.support.waiting import wait_until

RULES = ROOT / "dashboards" / "rules"
DASHBOARDS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in generate().items()}
"""What Grafana loads, by name."""

WHILE_DRAINING = "poolshift_drain_seconds_left"
"""Has a value only then: `test_drain.py` looks at what shows it."""

Series = dict[str, Any]


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Runs promtool, which fails the test with what it says."""
    ran = subprocess.run(
        [tool("promtool"), *map(str, arguments)], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def load(path: Path) -> dict[str, Any]:
    """A YAML or JSON file."""
    loaded: dict[str, Any] = (
        yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())
    )
    return loaded


def panels(name: str) -> list[dict[str, Any]]:
    """A dashboard's panels without the rows."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def metrics_in(expression: str) -> set[str]:
    """The service's metrics that a query names (a recording rule's colon tells it from them)."""
    return set(re.findall(r"(?<![\w:])(?:poolshift|http|process)_\w+(?![\w:])", expression))


def filled_in(expression: str) -> str:
    """A dashboard's query as Grafana would send it."""
    values = {
        "$__rate_interval": "10s",
        "$__interval": "1s",
        "$window": "1m",
        "$job": ".+",
        "$instance": ".+",
    }
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, f"a variable is left: {expression}"
    return expression


class Prometheus:
    """A Prometheus that scrapes one service each second, under the rules of this repository."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)
        self.began = time.time()  # before its first scrape

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of its HTTP API."""
        answer = self.client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, f"{answer.text}\n{parameters}"
        return answer.json()["data"]

    def now(self, expression: str) -> list[Series]:
        """Returns the result of a query at this moment."""
        result: list[Series] = self.get("query", query=expression)["result"]
        return result

    def values(self, *expressions: str) -> list[float]:
        """The value of each query, all as of the last scrape: of the same samples, whatever comes in meanwhile."""
        at = self.now("timestamp(up)")[0]["value"][1]
        return [
            float(series["value"][1])
            for expression in expressions
            for series in self.get("query", query=expression, time=at)["result"]
        ]

    def since_start(self, expression: str) -> list[Series]:
        """The series of a query over the whole test, each second, less those that are NaN throughout."""
        found = self.get("query_range", query=expression, start=self.began, end=time.time(), step=1)["result"]
        return [series for series in found if any(value != "NaN" for _, value in series["values"])]


@contextmanager
def running(name: str, directory: Path, arguments: list[str], url: str) -> Iterator[None]:
    """A server that is ready, for as long as the block lasts."""
    log_path = directory / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([tool(name), *arguments], cwd=directory, stdout=log, stderr=log)
    try:
        wait_until(lambda: _is_ready(process, url, log_path), f"{name} is ready")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_alertmanager(directory: Path) -> Iterator[str]:
    """An Alertmanager that takes alerts and tells nobody; its URL."""
    url = f"http://127.0.0.1:{free_port()}"
    (directory / "alertmanager.yml").write_text(
        yaml.safe_dump({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]})
    )
    arguments = [
        "--config.file=alertmanager.yml",
        "--storage.path=alertmanager",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    with running("prometheus-alertmanager", directory, arguments, url):
        yield url


@contextmanager
def running_prometheus(directory: Path, *, target: str, alertmanager: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `target` and sends alerts to `alertmanager`."""
    url = f"http://127.0.0.1:{free_port()}"
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yaml")],
        "scrape_configs": [
            {"job_name": "poolshift", "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        ],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]},
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    arguments = [
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=prometheus",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    prometheus = Prometheus(url)
    with prometheus.client, running("prometheus", directory, arguments, url):
        yield prometheus


def _is_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> bool:
    assert process.poll() is None, log_path.read_text()
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
