"""docs/streaming.md: a newcomer who runs its commands in one shell sees what it shows."""

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from routing.webhooks.job_event import job_event
from routing.webhooks.outbox import Notification
from tests.docs.test_readme import pattern, unspaced
from tests.support.pages import blocks, page
from tests.support.service import Service, running_service

PAGE = page("streaming.md")
BLOCKS = blocks(PAGE)
RULER = "-- the next block --"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A fresh service, whose webhooks may go where the page's does."""
    with running_service(tmp_path_factory.mktemp("streaming-page"), WEBHOOK_ALLOW="hooks.example.com") as service:
        yield service


def run(service: Service, commands: list[str], folder: Path) -> list[str]:
    """Runs blocks as they stand there, in one shell, as their variables go on; the output of each."""
    script = f"\necho '{RULER}'\n".join(commands).replace("localhost:8000", f"127.0.0.1:{service.port}")
    ran = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stderr == ""
    return ran.stdout.split(f"{RULER}\n")


@pytest.mark.curl
def test_every_command_prints_what_the_page_shows(service: Service, tmp_path: Path) -> None:
    """From top to bottom, on a fresh service."""
    steps = [(command.text, shown) for command, shown in itertools.pairwise(BLOCKS) if command.info == "sh"]
    assert len(steps) > 5
    for (_, shown), said in zip(steps, run(service, [text for text, _ in steps], tmp_path), strict=True):
        assert shown.info == "text"
        assert re.fullmatch(pattern(shown.text), unspaced(said), re.DOTALL), said


@pytest.mark.curl
def test_the_webhook_is_taken_if_its_host_is_allowed(service: Service, tmp_path: Path) -> None:
    """The page's job starts."""
    (command,) = [block.text for block in BLOCKS if block.info == "sh webhook"]
    program = {"program_type": "python", "entrypoint": "examples.text:index"}
    service.client.put("/programs/word-index", json=program).raise_for_status()
    (said,) = run(service, [command], tmp_path)
    assert json.loads(said)["status"] == "queued"


def test_the_event_is_the_one_that_is_sent() -> None:
    """By its members; those that depend on the moment are left out on the page."""
    (shown,) = [block.json() for block in BLOCKS if block.info == "json"]
    event = job_event(Notification(1, {**shown["data"], "result": None}, datetime.now(UTC), 0, 0.0))
    data = event.get_data()
    assert isinstance(data, dict)
    assert shown["data"].keys() == data.keys()
    for name in ("id", "type", "subject", "source", "datacontenttype", "summary"):
        assert event.get_attributes()[name] == shown[name], name
