"""Every command that asks a service, on a real one: its table or text is that of the snapshot.

`POOLSHIFT_WRITE_SNAPSHOTS=1 pytest tests/cli/test_tables.py` writes the snapshot; read its diff before you commit it.
"""

import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import MODULES, main
from tests.support.commands import all_commands
from tests.support.service import ROOT, Service, running_service

SNAPSHOT = ROOT / "tests/cli/snapshots/commands.txt"
FILES = {
    "program.json": {
        "id": "keywords",
        "program_type": "python",
        "entrypoint": "examples.text:keywords",
        "signature": {
            "description": "The words that occur most.",
            "inputs": [{"name": "text", "type": "string"}, {"name": "limit", "type": "integer", "default": 5}],
            "outputs": [{"name": "result", "type": "array"}],
        },
    },
    "steps.json": {
        "id": "steps",
        "program_type": "python",
        "entrypoint": "tests.support.programs:steps",
        "signature": {
            "inputs": [{"name": "count", "type": "integer"}],
            "outputs": [{"name": "result", "type": "integer"}],
        },
    },
    "hold.json": {"id": "hold", "program_type": "python", "entrypoint": "tests.support.programs:hold"},
    "items.jsonl": {"text": "to and fro"},
    "plan.yaml": {"name": "slow", "steps": [{"percent": 1, "hold_s": 60}, {"percent": 50, "hold_s": 60}]},
}
NORMAL = [
    (r"\b[0-9a-f]{32}\b", "<id>"),
    (r" \(git [0-9a-f]{10}(-dirty)?\)", ""),  # of this checkout
    (r"\b[0-9a-f]{12,40}\b", "<revision>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "<time>"),
    (r"\b\d+(\.\d+)? ms\b", "<n> ms"),
    (r"(v\d +)\d+(\.\d+)?( +\{)", r"\1<n>\3"),
    (r"--deletion \d+", "--deletion <n>"),
    (r"is (queued|running) after", "is <status> after"),
    (r"(?m)^ *\d+ +- +idle .*$", "<worker>"),
    (r"http://127\.0\.0\.1:\d+", "<url>"),
    (r"\b[0-9a-f]{8,}-[0-9a-f-]+\b", "<replica>"),
    (r"(?m)^continue\s+-\s.*\n", ""),  # a verdict that the judge writes at its first look, which comes soon
]
NOT_HERE = {"serve", "init", "keys", "judge", "db", "migrate", "migration", "shadow"}
"""Commands that ask no service, or that tests of their own try."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A fresh service, so that lists have what the snapshot's commands made."""
    directory = tmp_path_factory.mktemp("service-tables")
    with running_service(directory, V1_POOL_SIZE=1, V2_POOL_SIZE=1, WARM_TIMEOUT_S=0) as service:
        yield service


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Runs the command in this process; its exit code, output and complaints."""
    monkeypatch.setattr(sys, "argv", ["poolshift", *arguments])
    output, complaints = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(complaints):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert code is None or isinstance(code, int)
    return code or 0, output.getvalue(), complaints.getvalue()


def normal(text: str) -> str:
    """The text without that which differs from run to run."""
    for pattern, name in NORMAL:
        text = re.sub(pattern, name, text)
    return "\n".join(re.sub(r" {2,}", "  ", line).strip() for line in text.splitlines())


def commands() -> list[str]:
    """The commands of the snapshot."""
    return [line[2:] for line in SNAPSHOT.read_text().splitlines() if line.startswith("$ ")]


def test_each_command_prints_its_snapshot(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom: the exit code if it is not 0, the output, and after `!` what is on standard error."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "key").write_text("sk-1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POOLSHIFT_URL", service.url)
    monkeypatch.setenv("NO_COLOR", "1")
    job = ""
    found = []
    for command in commands():
        code, output, complaints = run([job if one == "JOB" else one for one in shlex.split(command)], monkeypatch)
        told = [f"exit code {code}"] if code else []
        told += normal(output).splitlines() + [f"! {line}" for line in normal(complaints).splitlines()]
        found += [f"$ {command}", *told, ""]
        if "--async" in command and not code:
            job = output.split()[1]
    text = "\n".join(found).replace(str(tmp_path), "<folder>")
    if os.environ.get("POOLSHIFT_WRITE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text()


def test_no_command_is_left_out() -> None:
    """Each command that asks a service is in the snapshot."""
    tried = [f"{command} " for command in commands()]
    known = [one for one in all_commands() if one.split()[0] not in NOT_HERE]
    missing = [one for one in known if not any(command.startswith(f"{one} ") for command in tried)]
    assert missing == ["rollout watch"]  # tests/cli/test_watch.py
    assert NOT_HERE - {"serve"} <= MODULES.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script asks the command, which answers with commands and options."""
    monkeypatch.setenv("_POOLSHIFT_COMPLETE", "")
    code, script, complaints = run(["completion", shell], monkeypatch)
    assert (code, complaints) == (0, "")
    assert f"_POOLSHIFT_COMPLETE=complete_{shell}" in script
