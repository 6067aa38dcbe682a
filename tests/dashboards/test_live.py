"""Every panel shows something, every rule finds its figures, an alert arrives."""

import math
import re
from statistics import NormalDist
from typing import Any

import httpx
import pytest

from dashboards.queries import EXCUSED, NO_PROGRAMS
from tests.dashboards.conftest import PERCENTAGES, Watched
from tests.dashboards.tools import DASHBOARDS, RULES, WHILE_DRAINING, filled_in, load, metrics_in, panels, promtool
from tests.support.waiting import wait_until

TARGETS = [
    pytest.param(target["expr"], id=f"{name}-{panel['title']}-{target['refId']}")
    for name in DASHBOARDS
    for panel in panels(name)
    for target in panel["targets"]
    if WHILE_DRAINING not in metrics_in(target["expr"])
]
RULE_EXPRESSIONS = [
    (rule.get("record", rule.get("alert")), rule["expr"])
    for path in sorted(RULES.glob("*.yaml"))
    for group in load(path)["groups"]
    for rule in group["rules"]
]


@pytest.mark.parametrize("expression", TARGETS)
def test_a_panel_shows_something(watched: Watched, expression: str) -> None:
    """With its variables filled in, a query finds at least one series with a figure in it, and those of both versions
    where it tells them apart."""
    series = watched.prometheus.since_start(filled_in(expression))
    assert series
    versions = {one["metric"]["pool_version"] for one in series if "pool_version" in one["metric"]}
    wanted = set(re.findall(r'pool_version="(v\d)"', expression)) or {"v1", "v2"}
    assert versions in (set(), wanted)


@pytest.mark.parametrize("expression", [one for one in TARGETS if NO_PROGRAMS in str(one.values[0])])
def test_a_panel_of_programs_says_that_there_are_none(watched: Watched, expression: str) -> None:
    """As on a service that has none: a line with that name, and not an empty panel. With programs it is not there."""
    there = filled_in(expression)
    nowhere = there.replace('instance=~".+"', 'instance="nowhere"')
    assert [one["metric"] for one in watched.prometheus.since_start(nowhere)] == [{"program": NO_PROGRAMS}]
    (latest, *more) = watched.prometheus.now(there)
    assert NO_PROGRAMS not in {one["metric"]["program"] for one in (latest, *more)}


def test_the_choices_of_variables_are_there(watched: Watched) -> None:
    """Each variable that asks Prometheus for its values gets some."""
    asked = 0
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query":
                continue
            asked += 1
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            assert watched.prometheus.get(f"label/{label}/values", **{"match[]": filled_in(metric)})
    assert asked == 2 * len(DASHBOARDS)


def test_every_rollout_change_is_marked_once(watched: Watched) -> None:
    """The annotation has one mark for each revision, with the percentage that it brought."""
    history = watched.service.client.get("/rollout/history").json()["items"]
    wanted = {(str(change["revision"]), float(change["to_percent"])) for change in history}
    assert len(wanted) > len(PERCENTAGES)
    for dashboard in DASHBOARDS.values():
        (annotation,) = dashboard["annotations"]["list"]
        marks = watched.prometheus.since_start(filled_in(annotation["target"]["expr"]))
        found = [(mark["metric"]["revision"], float(mark["metric"]["percent"])) for mark in marks]
        assert sorted(found) == sorted(wanted)
        assert all([float(value) for _, value in mark["values"]] == [1.0] for mark in marks)


def test_the_interval_of_the_difference_is_the_formulas(watched: Watched) -> None:
    """PromQL's difference and interval are what Python makes of the same counts by Agresti's and Caffo's formula."""
    panel = next(panel for panel in panels("canary") if panel["title"].startswith("Difference"))
    counted = 'sum(increase(poolshift_requests_total{pool_version="%s", outcome!~"%s"}[1m]))'
    difference, upper, lower, *counts = watched.prometheus.values(
        *(filled_in(target["expr"]) for target in panel["targets"]),
        *(counted % (version, outcomes) for version in ("v1", "v2") for outcomes in (EXCUSED, f"ok|{EXCUSED}")),
    )
    calls = {"v1": counts[0], "v2": counts[2]}
    faults = {"v1": counts[1], "v2": counts[3]}
    assert difference == pytest.approx(faults["v2"] / calls["v2"] - faults["v1"] / calls["v1"])

    shares = {version: (faults[version] + 1) / (calls[version] + 2) for version in calls}
    variance = sum(share * (1 - share) / (calls[version] + 2) for version, share in shares.items())
    margin = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    middle = shares["v2"] - shares["v1"]
    # Z_95 is rounded: as a share of the margin, since an end of the interval may lie next to zero.
    assert (lower, upper) == pytest.approx((middle - margin, middle + margin), abs=1e-3 * margin)
    assert lower < difference < upper


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_p99_lies_within_its_interval(watched: Watched, version: str) -> None:
    """And the interval has a width: a p99 of some hundred calls is not known to the point."""
    panel = next(panel for panel in panels("canary") if panel["title"].startswith(f"{version.upper()}: p99"))
    p99, upper, lower = watched.prometheus.values(*(filled_in(target["expr"]) for target in panel["targets"]))
    assert lower < p99 < upper


@pytest.mark.parametrize("name", [name for name, _ in RULE_EXPRESSIONS if ":" in name])
def test_a_recording_rule_records(watched: Watched, name: str) -> None:
    """Each has recorded something but NaN."""
    assert watched.prometheus.since_start(name)


@pytest.mark.parametrize(("name", "expression"), RULE_EXPRESSIONS)
def test_a_rule_stands_on_metrics_that_exist(watched: Watched, name: str, expression: str) -> None:
    """A misspelt metric would make an alert that never fires."""
    for metric in metrics_in(expression) - {WHILE_DRAINING}:
        assert watched.prometheus.since_start(metric), f"{metric} in {name}"


def test_rules_are_healthy(watched: Watched) -> None:
    """Prometheus evaluates every rule without an error (a join of many to many is found only there)."""
    for group in watched.prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule


def test_an_alert_reaches_alertmanager(watched: Watched) -> None:
    """Programs that kill workers on both versions: the alert arrives, as it is in the file, with its runbook."""

    def alerts() -> dict[str, dict[str, Any]]:
        answer = httpx.get(f"{watched.alertmanager_url}/api/v2/alerts").raise_for_status().json()
        return {
            alert["labels"]["pool_version"]: alert
            for alert in answer
            if alert["labels"]["alertname"] == "PoolshiftWorkersCrashLoop"
        }

    wait_until(lambda: alerts().keys() == {"v1", "v2"}, "the alert for both versions")
    for version, alert in alerts().items():
        assert alert["labels"]["severity"] == "critical"
        assert alert["labels"]["job"] == "poolshift"
        assert alert["annotations"]["summary"].startswith(f"Workers of {version} on ")
        assert alert["annotations"]["runbook"] == "docs/runbooks/PoolshiftWorkersCrashLoop.md"


def test_metrics_pass_promtool(watched: Watched) -> None:
    """Names, help and types are as Prometheus would have them."""
    promtool("check", "metrics", text=watched.metrics)
