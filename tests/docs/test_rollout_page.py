"""docs/rollout.md: its commands and what they print, its tables, its notification, its Alertmanager configuration."""

import json
import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from analysis.guardrails import GUARDRAILS, Action
from routing.rollout.plan import Plan, PlanStep, parse_plan
from routing.rollout.ramp import RampState
from routing.rollout.ramp_json import to_json
from routing.webhooks.outbox import Notification
from routing.webhooks.ramp_event import ramp_event
from routing.webhooks.request import request_of
from tests.cli.conftest import SCRIPT
from tests.cli.test_watch import rendered, row, seen
from tests.conftest import StartService
from tests.dashboards.tools import running
from tests.support.pages import blocks, codes, page, section, table
from tests.support.receiver import running_receiver, says
from tests.support.service import free_port
from tests.support.tools import tool
from tests.support.waiting import wait_until
from tests.unit.test_ramp import started

PAGE = page("rollout.md")
PLAN = next(block.text for block in blocks(PAGE) if block.info == "yaml")
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")
SECONDS = re.compile(r"in \d+ s at")


def normal(output: str) -> list[str]:
    """Output without the moment: times, the seconds that are left, and the padding at the end of a line."""
    return [SECONDS.sub("in N s at", TIME.sub("TIME", line)).rstrip() for line in output.splitlines()]


def commands() -> list[tuple[str, str]]:
    """Every command of the page's consoles with its output, in order."""
    consoles = "".join(block.text for block in blocks(PAGE) if block.info == "console")
    parts = re.split(r"^\$ ", consoles, flags=re.MULTILINE)[1:]
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def test_the_commands_print_what_the_page_says(start_service: StartService) -> None:
    """One after the other against one service, as a reader would type them."""
    service = start_service()
    (service.directory / "plan.yaml").write_text(PLAN)
    assert len(commands()) > 6
    for command, output in commands():
        name, *arguments = shlex.split(command)
        assert name == "poolshift"
        ran = subprocess.run(
            [SCRIPT, *arguments],
            cwd=service.directory,
            env={"HOME": str(service.directory), "POOLSHIFT_URL": service.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert normal(ran.stdout) == normal(output), command


def test_every_field_of_a_plan_is_there_with_its_default() -> None:
    """The fields of the plan and of a step."""
    rows = {codes(one["field"])[0]: one for one in table(PAGE, "field")}
    fields = dict(Plan.model_fields)
    steps = {f"steps[].{name}": field for name, field in PlanStep.model_fields.items()}
    assert rows.keys() == {**fields, **steps}.keys()
    for name, field in {**fields, **steps}.items():
        said = rows[name]["default"]
        if field.is_required():
            assert said == ""
        elif field.default is None or field.default_factory is not None:
            assert said in ("unset", "none")
        else:
            assert codes(said)[0] == str(field.default).lower(), name
    assert parse_plan(PLAN.encode()).name == "release 7"


def test_every_state_is_explained() -> None:
    """With what moves it on."""
    rows = {codes(one["state"])[0]: one for one in table(PAGE, "state")}
    assert list(rows) == list(RampState)
    assert all(one["meaning"] and one["what moves it on"] for one in rows.values())


def test_every_guardrail_is_explained() -> None:
    """With the decision that the code makes of it."""
    rows = {codes(one["guardrail"])[0]: one for one in table(PAGE, "guardrail")}
    assert list(rows) == [one.name for one in GUARDRAILS]
    for one in GUARDRAILS:
        assert Action(rows[one.name]["decision"]) is one.action
        assert rows[one.name]["first thing to look at"]


def test_the_screen_has_the_parts_of_the_page() -> None:
    """The same lines, with other figures."""
    shown = next(block.text for block in blocks(PAGE) if block.info == "text").splitlines()
    view = seen(row(log_e=-0.4), row("program", -1.0), row("latency", -4.4))
    drawn = rendered(view, 134).splitlines()
    first_word = re.compile(r"[A-Za-z]*")
    for said, is_so in zip(shown, drawn, strict=True):
        assert first_word.findall(said)[0] == first_word.findall(is_so)[0]
    headers = [line for line in shown if "guardrail" in line or "approval" in line]
    assert [line.split() for line in headers] == [
        line.split() for line in drawn if "guardrail" in line or "approval" in line
    ]


def test_the_notification_is_what_is_sent() -> None:
    """The same members, and all that is not of the moment."""
    said: dict[str, Any] = next(block.json() for block in blocks(PAGE) if block.info == "json")
    stored = {**to_json(started()), "revision": 7}
    sent = json.loads(
        request_of(ramp_event(Notification(1, stored, datetime.now(UTC), 0, 0.0)), None, datetime.now(UTC)).body
    )
    assert sent.keys() == said.keys()
    assert sent["data"].keys() == said["data"].keys()
    assert (sent["source"], sent["specversion"]) == (said["source"], said["specversion"])
    assert re.fullmatch(r"ramp-\d+-\d+", said["id"])
    assert re.fullmatch(r"ramp-\d+-\d+", sent["id"])
    assert said["type"] == f"poolshift.rollout.{said['data']['state']}"


def alertmanager_configuration() -> str:
    """The page's."""
    (block,) = (block for block in blocks(section(PAGE, "## Notifications")) if block.info == "yaml")
    return block.text


@pytest.mark.prometheus
def test_amtool_finds_no_fault_with_the_configuration(tmp_path: Path) -> None:
    """As it stands on the page."""
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager_configuration())
    ran = subprocess.run(
        [tool("amtool"), "check-config", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize("alert", ["PoolshiftJudgeRollback", "PoolshiftRampPaused"])
def test_the_alerts_reach_slacks_address(tmp_path: Path, alert: str) -> None:
    """A real Alertmanager with the page's configuration posts to a stand-in for Slack; other alerts go nowhere."""
    with running_receiver(then=says(200, body=b"ok")) as slack:
        document = yaml.safe_load(alertmanager_configuration())
        document["receivers"][1]["slack_configs"][0]["api_url"] = slack.url
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(document))
        url = f"http://127.0.0.1:{free_port()}"
        arguments = [
            "--config.file=alertmanager.yml",
            "--storage.path=alertmanager",
            f"--web.listen-address={url.removeprefix('http://')}",
            "--cluster.listen-address=",
        ]
        with running("prometheus-alertmanager", tmp_path, arguments, url):
            for name in ("PoolshiftShedding", alert):
                labels = {"alertname": name, "job": "poolshift"}
                annotations = {"summary": f"summary of {name}", "description": "d", "runbook": "r"}
                body = [{"labels": labels, "annotations": annotations}]
                httpx.post(f"{url}/api/v2/alerts", json=body).raise_for_status()
            wait_until(lambda: len(slack.deliveries) > 0, "the alert arrives")
        assert [f"summary of {alert}" in delivery.body.decode() for delivery in slack.deliveries] == [True]
