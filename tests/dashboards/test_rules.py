"""The rules by themselves: sound, tried with figures that fire and figures that do not, explained in a runbook."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from dashboards.queries import EXCUSED
from tests.dashboards.tools import RULES, load, promtool
from tests.support.service import ROOT

RUNBOOKS = ROOT / "docs" / "runbooks"
TESTS = ROOT / "tests" / "dashboards" / "rules"


def _rules(kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted(RULES.glob("*.yaml")):
        for group in load(path)["groups"]:
            yield from (rule for rule in group["rules"] if kind in rule)


ALERTS = {rule["alert"]: rule for rule in _rules("alert")}


@pytest.mark.prometheus
def test_promtool_finds_no_fault() -> None:
    """Syntax and promtool's lints."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", *sorted(RULES.glob("*.yaml")))


@pytest.mark.prometheus
@pytest.mark.thorough
def test_unit_tests_pass() -> None:
    """Every alert's own cases, computed by Prometheus' engine."""
    promtool("test", "rules", *sorted(TESTS.glob("*.yaml")))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tried_both_ways(name: str) -> None:
    """The unit tests have a case in which it fires and one in which it does not."""
    cases = [case for test in load(TESTS / f"{name}.yaml")["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases} == {name}
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_explained(name: str) -> None:
    """An alert has a severity, a summary, a description, and a runbook with its meaning and the remedy."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    headings = re.findall(r"^#+ (.+)$", (RUNBOOKS / f"{name}.md").read_text(), re.MULTILINE)
    assert headings == [name, "What it means", "What to look at", "What to do"]


def test_no_page_and_no_test_without_its_alert() -> None:
    """A page or test of an alert that is gone would mislead."""
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == ALERTS.keys()
    assert {path.stem for path in TESTS.glob("*.yaml")} == ALERTS.keys()


def test_rules_excuse_what_the_taxonomy_says() -> None:
    """The outcomes that judge no version are the same in the rules, in the dashboards and in the taxonomy of errors."""
    found = re.findall(r"outcome!~'([^']+)'", " ".join(rule["expr"] for rule in _rules("record")))
    assert sorted(found) == sorted([EXCUSED, f"ok|{EXCUSED}"])
