"""The dashboards by themselves: true to Grafana's schema and to any data source."""

import re
from itertools import combinations
from typing import Any

import jsonschema
import pytest

from tests.dashboards.tools import DASHBOARDS, load, panels
from tests.support.service import ROOT

SCHEMA = ROOT / ".cache" / "grafana" / "schema.json"

pytestmark = pytest.mark.parametrize("name", DASHBOARDS)


def test_panels_fill_the_grid_and_do_not_overlap(name: str) -> None:
    """Every line of the grid is covered by exactly one panel in each of its 24 columns: no overlap, no hole."""
    covered: dict[tuple[int, int], str] = {}
    for panel in DASHBOARDS[name]["panels"]:
        position = panel["gridPos"]
        for x in range(position["x"], position["x"] + position["w"]):
            for y in range(position["y"], position["y"] + position["h"]):
                assert (x, y) not in covered, f"{panel['title']} is on {covered.get((x, y))}"
                covered[x, y] = panel["title"]
    height = max(y for _, y in covered) + 1
    assert covered.keys() == {(x, y) for x in range(24) for y in range(height)}


def test_data_source_is_a_variable(name: str) -> None:
    """Nothing names a data source of its own, so that any Prometheus will do."""
    dashboard = DASHBOARDS[name]
    assert (
        dashboard["templating"]["list"][0] | {"name": "datasource", "type": "datasource", "query": "prometheus"}
        == (dashboard["templating"]["list"][0])
    )
    found = list(_data_sources(dashboard))
    assert len(found) > len(dashboard["panels"])
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in found)


def test_everything_is_named_once_and_explained(name: str) -> None:
    """Ids, titles and the letters of queries are unique, and each panel says what it shows."""
    dashboard = DASHBOARDS[name]
    assert re.fullmatch(r"poolshift-[a-z]+", dashboard["uid"])
    for one, other in combinations(dashboard["panels"], 2):
        assert one["id"] != other["id"]
        assert one["title"] != other["title"]
    for panel in panels(name):
        assert panel["description"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0


def test_a_panel_for_v1_says_that_v1_may_not_run(name: str) -> None:
    """With POOLS=v2 its query finds nothing: the panel says why, instead of "No data"."""
    for panel in panels(name):
        if any('pool_version="v1"' in target["expr"] for target in panel["targets"]):
            assert panel["fieldConfig"]["defaults"]["noValue"] == "V1 does not run", panel["title"]


@pytest.mark.schema
def test_grafana_would_read_it(name: str) -> None:
    """The JSON fits Grafana's own types, options of panels included: a misspelt option fails."""
    kinds = load(SCHEMA)["definitions"]["Checked"]["properties"]
    dashboard = DASHBOARDS[name]
    _assert_valid(dashboard, kinds["dashboard"])
    for panel in panels(name):
        own = {"options": panel["options"], "custom": panel["fieldConfig"]["defaults"].get("custom", {})}
        _assert_valid(own, kinds[panel["type"]])


def _assert_valid(document: dict[str, Any], schema: dict[str, Any]) -> None:
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(document))
    assert not errors, "\n".join(f"{error.json_path}: {error.message[:300]}" for error in errors)


def _data_sources(node: Any) -> Any:
    if isinstance(node, dict):
        if "datasource" in node:
            yield node["datasource"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _data_sources(child)
