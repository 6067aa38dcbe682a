"""compose.yaml: what of it can run without a registry of images, runs; the rest is checked by the tool it is for."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ship.conftest import DASHBOARDS
from tests.ship.tools import BIN, Chart, only, run
from tests.support.pages import blocks, page
from tests.support.service import ROOT, free_port, running_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ship

QUEUE_DEPTH = "poolshift_queue_depth"


def test_compose_takes_it() -> None:
    """The file means something to Compose, every port is this machine's alone, and every image has a version."""
    said = run(BIN / "docker-compose", "--project-directory", ROOT, "config", "--format", "json").stdout
    services = json.loads(said)["services"]
    assert set(services) == {"poolshift", "postgres", "prometheus", "grafana"}
    for name, service in services.items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert service["image"].rpartition(":")[2] not in ("", "latest"), name
        assert "no-new-privileges:true" in service["security_opt"], name
    drain = float(services["poolshift"]["environment"]["DRAIN_TIMEOUT_S"])
    assert services["poolshift"]["stop_grace_period"] == f"{drain + 10:.0f}s"


def test_prometheus_scrapes_the_service(tmp_path: Path) -> None:
    """A real Prometheus takes Compose's flags, the configuration and the rules, and finds a real service."""
    command = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["prometheus"]["command"]
    flags = [flag for flag in command if not flag.startswith(("--config.file=", "--storage.tsdb.path="))]
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    shutil.copytree(DASHBOARDS / "rules", tmp_path / "rules")
    (tmp_path / "service").mkdir()
    port = free_port()
    with running_service(tmp_path / "service") as service:
        (scrape,) = config["scrape_configs"]
        assert scrape["static_configs"] == [{"targets": ["poolshift:8000"]}]
        # With the labels that the operator's ServiceMonitor gives to what it finds.
        labels = {"namespace": "ns", "pod": "pod-0"}
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"], "labels": labels}]
        scrape["scrape_interval"] = "1s"
        file = tmp_path / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        run("promtool", "check", "config", file)
        with (tmp_path / "log").open("wb") as log:
            prometheus = subprocess.Popen(
                [
                    "prometheus",
                    *flags,
                    f"--config.file={file}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: _query(port, 'up{job="poolshift"}') == "1", "Prometheus has found the service")
            assert _query(port, "sum(poolshift_pool_workers)") is not None
            (rule,) = adapter_rules()
            assert _query(port, rule["seriesQuery"]) == "0"
            filled_in = {"Series": QUEUE_DEPTH, "LabelMatchers": 'namespace="ns",pod=~"pod-0|pod-1"', "GroupBy": "pod"}
            asked = re.sub(r"<<\.(\w+)>>", lambda found: filled_in[found[1]], rule["metricsQuery"])
            assert _query(port, asked) == "0"  # of both pools
            groups = httpx.get(f"http://127.0.0.1:{port}/api/v1/rules").json()["data"]["groups"]
            assert {Path(group["file"]).name for group in groups} == {
                path.name for path in (DASHBOARDS / "rules").glob("*.yaml")
            }
        finally:
            prometheus.terminate()
            prometheus.wait(20)


def test_the_autoscaler_asks_for_what_the_adapter_serves(chart: Chart) -> None:
    """The rule of docs/deploy.md names the series that the HPA wants, which docs/metrics.md has as a gauge."""
    metrics = only(chart.render("-f", ROOT / "helm/values-prod.yaml"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    (name,) = (metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods")
    (rule,) = adapter_rules()
    assert name == QUEUE_DEPTH
    assert rule["seriesQuery"].startswith(f"{QUEUE_DEPTH}{{")
    assert rule["resources"]["overrides"].keys() == {"namespace", "pod"}
    assert f"| `{name}` | gauge |" in page("metrics.md")


def adapter_rules() -> list[dict[str, Any]]:
    """Returns the rules of prometheus-adapter, as docs/deploy.md has them."""
    (block,) = (block for block in blocks(page("deploy.md")) if "seriesQuery" in block.text)
    rules: list[dict[str, Any]] = yaml.safe_load(block.text)["rules"]
    return rules


def _query(port: int, query: str) -> str | None:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return None
    if answer.status_code != 200:
        return None
    found = answer.json()["data"]["result"]
    return found[0]["value"][1] if found else None


def test_grafana_finds_prometheus() -> None:
    """The data source points at the service that Compose starts, on the port that it listens on."""
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    (prometheus,) = source["datasources"]
    name, _, port = prometheus["url"].removeprefix("http://").partition(":")
    assert services[name]["ports"][0].endswith(f":{port}")
