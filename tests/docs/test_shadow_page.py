"""docs/shadow.md: its programs can be created, its numbers are the code's, and its commands do what it says."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from analysis import odd_ones, quality
from app.api.programs.body import Compare, ProgramBody
from cli.rollout import shadow
from cli.rollout.shadow_page import html_report, markdown_report
from config.settings import Settings
from pools.quarantine import DEATHS_IN_A_ROW
from routing.shadow import comparison, examples, gate, runs, tap
from tests.service.test_shadow import settings
from tests.support.service import POOLSHIFT, ROOT, running_service

PAGE = (ROOT / "docs/shadow.md").read_text()


def blocks() -> list[dict[str, Any]]:
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_numbers_are_those_of_the_code() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    for text in (
        f"At most {tap.MAX_WAITING} captured calls wait, for {runs.MAX_AGE_S:g} s at most",
        f"with {runs.MAX_WAITING_BYTES >> 20} MiB at most",
        f"late (by more than {1000 * gate.MAX_LAG_S:g} ms)",
        f"work for {100 * gate.MAX_LOOP_SHARE:g} % of its time at most",
        f"since the last look, {runs.TICK_S:g} s ago: {gate.FIRST_CALLS} after a pause",
        f"idle by {100 - defaults['shadow_max_cpu_percent']:g} % at least",
        f"after {['', 'one', 'two', 'three'][DEATHS_IN_A_ROW]} in a row the program's copies pause",
        f"answers with over {comparison.MAX_OUTPUT_BYTES >> 20} MiB",
        f"`{comparison.TOO_LARGE}`",
        f"share α = {odd_ones.ALPHA:.0%}".replace("%", " %"),
        f"{examples.MAX_VALUE_LENGTH:,} characters",
        f"up to {['', 'ten'][examples.MAX_EXAMPLES // 10]} calls",
        f"lower by more than {quality.MARGIN}",
        f"surely not lower by {quality.PROMOTION_MARGIN}",
        f"for which {odd_ones.equal_until_alike()} equal ones are enough",
        f"up to {shadow.RERUNS} times",
    ):
        assert text in " ".join(PAGE.split()), text
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert named >= tap.COMPARED_ERRORS


def test_each_comparison_is_explained() -> None:
    rows = re.findall(r"^\| `(.+?)`(?: \(default\))? \|", PAGE, re.MULTILINE)
    kinds = {json.loads(one) if one.startswith('"') else next(iter(json.loads(one))) for one in rows if one[0] in '"{'}
    literal, *measures = get_args(Compare)
    assert kinds == {*get_args(literal), *(name for measure in measures for name in measure.model_fields)}


UNUSABLE = (
    (b"\n", "inputs.jsonl has no inputs"),
    (b'{"m": 1}\n', "no call had outputs on either version (1 invalid_inputs)"),
    (b'{"n": 1}\n{"n": NaN}\n', "inputs.jsonl:2: NaN is not JSON"),
    (b'{"n": 1}\n{"n": "\xff"}\n', "inputs.jsonl:2: "),
    (b'{"n": "\\ud800"}\n', "inputs.jsonl:1: "),
    (100_000 * b"[" + b"\n", "inputs.jsonl:1: "),
)
"""Files that compare nothing, or have a line that is no input, and the line of standard error."""


@pytest.mark.service
def test_programs_and_commands(tmp_path: Path) -> None:
    """The programs of the page, compared on inputs without any traffic; a difference is exit code 1."""
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(30)))
    with running_service(tmp_path, **settings(tmp_path, SHADOW_PERCENT=0)) as service:
        for block in blocks():
            ProgramBody.model_validate(block)
            assert service.client.post("/programs", json=block).status_code == 201, block

        def poolshift(*arguments: str) -> "subprocess.CompletedProcess[str]":
            command = [*POOLSHIFT, *arguments, "--url", service.url]
            return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

        ran = poolshift("shadow", "run", "inputs.jsonl", "--program", "invoice", "--json")
        found = json.loads(ran.stdout)
        by_field = {row["field"]: row for row in found["fields"]}
        assert (ran.returncode, found["compared"], found["differing"]) == (1, 30, 10), ran.stderr
        assert by_field["total"]["differing"] == 10
        assert "password" not in by_field
        assert "secret-" not in ran.stdout
        assert poolshift("shadow", "run", "inputs.jsonl", "--program", "answer").returncode == 1
        inputs.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\n{"n": "one"}\n')
        ran = poolshift("shadow", "run", "inputs.jsonl", "--program", "invoice")
        assert ran.returncode == 0
        assert "2 calls compared, 0 differing, 0 shed, 1 with the same error on both versions (1 invalid_inputs)" in (
            ran.stdout
        )
        for line, told in UNUSABLE:
            inputs.write_bytes(line)
            ran = poolshift("shadow", "run", "inputs.jsonl", "--program", "invoice")
            assert (ran.returncode, ran.stderr.count("\n"), told in ran.stderr) == (2, 1, True), ran.stderr
        inputs.write_text('{"n": 1}\n')
        refused = poolshift("shadow", "run", "inputs.jsonl", "--program", "nothing")
        assert (refused.returncode, "program_not_found" in refused.stderr) == (1, True)
        assert poolshift("rollout", "set", "0", "--shadow", "25").returncode == 0
        assert service.client.get("/rollout").json()["shadow_percent"] == 25
        page = poolshift("shadow", "report", "--format", "html")
        assert page.returncode == 0
        assert page.stdout.startswith("<!doctype html>")
        assert service.metric("poolshift_requests_total", operation="synthetic") >= 60
        assert service.metric("poolshift_requests_total", operation="execute") == 0


def test_a_report_shows_users_data_and_nothing_of_it_runs() -> None:
    """Values are escaped in HTML, and stay inside of their fences in Markdown."""
    hostile = "</pre><script>alert(1)</script>\n```\n# not a heading"
    found = {
        "compared": 1,
        "differing": 1,
        "shed": 2,
        "shed_reasons": {"busy": 2},
        "metric_failures": {"not_a_number": 3},
        "quality": None,
        "fields": [
            {
                "program_id": "a|b",
                "field": "<b>",
                "compared": 1,
                "differing": 1,
                "noise": 0,
                "differs": True,
                "interval": [0.0, 1.0],
            }
        ],
        "examples": [
            {
                "program_id": "p",
                "odd": {"<b>": "v2"},
                "inputs": hostile,
                "v1": {"<b>": hostile},
                "v2": {"<b>": hostile},
                "diff": [hostile],
            }
        ],
    }
    page = html_report("Shadow", found)
    assert "<script>" not in page
    assert "<b>" not in page
    text = markdown_report("Shadow", found)
    for told in ("2 shed (2 since V2 or the machine was busy)", "Metrics without a score: 3 not a number."):
        assert told in page
        assert told in text
    headings = [
        line
        for line in re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()
        if line.startswith("#")
    ]
    assert headings == ["# Shadow", "## p: \\<b\\> (v2 is the odd one)"]
    assert "a\\|b" in text
