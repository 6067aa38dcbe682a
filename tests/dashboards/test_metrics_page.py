"""`docs/metrics.md` and `/metrics` agree."""

import re

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import StartService
from tests.dashboards.conftest import Watched
from tests.support.service import ROOT

_ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \|(?P<labels>[^|]*)\| (?P<meaning>[^|]+) \| (?P<use>[^|]+) \|$"
)
_OF_THE_KIND = {"le", "quantile"}

Metrics = dict[str, tuple[str, frozenset[str]]]
"""Kind and labels by name."""


def _documented() -> Metrics:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = [row for line in page.splitlines() if (row := _ROW.match(line))]
    assert len(rows) == sum(line.startswith("| `") for line in page.splitlines()), "a row is not of the table's form"
    return {row["name"]: (row["kind"], frozenset(re.findall(r"`(\w+)`", row["labels"]))) for row in rows}


def _scraped(text: str) -> Metrics:
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - _OF_THE_KIND
        found[name] = (family.type, labels)
    return found


def test_the_page_has_every_metric_and_no_other(watched: Watched, start_service: StartService) -> None:
    """Names, kinds and labels, both ways. Several replicas of one machine have the same, each with its label.

    Without a program that has metrics, theirs have no series and thus no labels.
    """
    assert _documented() == _scraped(watched.metrics)
    of_replicas = _scraped(start_service(WEB_CONCURRENCY=2).client.get("/metrics").text)
    assert of_replicas.keys() == _documented().keys()
    for name, (kind, labels) in of_replicas.items():
        expected = _documented()[name]
        assert (kind, labels) == (expected[0], expected[1] | {"replica"} if labels else frozenset()), name
