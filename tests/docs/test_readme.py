"""README.md: a newcomer who runs its commands sees what it shows."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.again import read, write
from bench.outcome import median, throughput
from tests.support.pages import Block, blocks, page, section, table
from tests.support.service import ROOT, Service

PAGE = (ROOT / "README.md").read_text()
BLOCKS = blocks(PAGE)
SHOWN = list(itertools.pairwise(BLOCKS))
RESULTS = ROOT / "bench/results/2026-11-28.json"


def pattern(shown: str) -> str:
    """The expression for an output: `…` stands for anything."""
    return ".*?".join(re.escape(part) for part in unspaced(shown).split("…"))


def unspaced(text: str) -> str:
    """The text with one blank for each gap in a line, as a table's widths depend on what is in it."""
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as `make run` starts it, without the language model: tests/lm has that section of the page."""
    service = Service(tmp_path_factory.mktemp("readme"), V1_POOL_SIZE=4, V2_POOL_SIZE=4)
    service.start()
    yield service
    service.close()


def run(service: Service, text: str) -> str:
    """Runs a block as it stands there; its output."""
    bin_folder = Path(sys.executable).parent
    ended = subprocess.run(
        ["bash", "-c", text.replace("localhost:8000", f"127.0.0.1:{service.port}")],
        cwd=ROOT,
        env={"PATH": f"{bin_folder}:{os.environ['PATH']}", "PWD": str(ROOT), "POOLSHIFT_URL": service.url},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stderr == ""
    return ended.stdout


@pytest.mark.curl
def test_every_command_prints_what_the_page_shows(service: Service) -> None:
    """From top to bottom, in the order of the page, on a fresh service."""
    tried = 0
    for heading in ("## Try it", "### Move traffic, and take it back", "## Operate it"):
        text = section(PAGE, heading)
        if heading == "## Try it":
            text = text.partition("\n### ")[0]
        for command, shown in itertools.pairwise(blocks(text)):
            if command.info == "sh":
                assert shown.info == "text", command.text
                printed = unspaced(run(service, command.text))
                assert re.fullmatch(pattern(shown.text), printed, re.DOTALL), printed
                tried += 1
    assert tried == sum(block.info == "sh" for block in BLOCKS) - 2  # tests/lm/test_local.py has the other two


@pytest.mark.parametrize(("command", "shown"), [pair for pair in SHOWN if pair[0].info.startswith("sh")])
def test_a_command_is_followed_by_its_output(command: Block, shown: Block) -> None:
    """Each, but for the image's, whose builder prints what it likes."""
    assert shown.info == "text" or "make image" in command.text


def test_a_setup_shows_the_lines_of_the_page() -> None:
    """`make run` on a fresh checkout, and the end of `make test`."""
    environment, runner = (ROOT / "make/environment.mk").read_text(), (ROOT / "make/tests.sh").read_text()
    run_block, test_block = (shown for command, shown in SHOWN if command.info == "sh setup" and shown.info == "text")
    steps = [line for line in run_block.text.splitlines() if line.startswith("- ")]
    assert steps == re.findall(r'@echo "(- [^"]+)"', environment)[: len(steps)]
    assert 'echo "Setting up $(VENV) with $$($(PYTHON) --version 2>&1) (once; about 20 s)"' in environment
    assert run_block.text.startswith("Setting up .venv with Python 3.")
    for line in test_block.text.splitlines():
        if line[:1].isdigit():
            assert line.replace("4 at a time", "$workers at a time") in runner


def test_every_link_leads_somewhere() -> None:
    """Each file is there, and has the heading that the link names."""
    targets = re.findall(r"\]\(([^):#]+)(?:#([^)]+))?\)", PAGE)
    assert any(heading for _, heading in targets)
    for path, heading in targets:
        assert (ROOT / path).exists(), path
        if heading:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, heading


def test_every_target_that_a_page_names_is_there() -> None:
    """`make X` of the README, CONTRIBUTING.md and docs/ is a target of make."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    text = "".join(page.read_text() for page in pages)
    named = {
        name for words in re.findall(r"`(?:[A-Z_0-9]+=\S+ )*make ((?:[a-z][a-z-]+ ?)+)", text) for name in words.split()
    }
    files = "".join(path.read_text() for path in (ROOT / "make").glob("*.mk")) + (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", files, re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize(
    ("row", "scenario"),
    [
        ("a trivial program, 32 connections", "overhead"),
        ("100 kB in and out", "payload"),
        ("5 ms of processor time", "compute"),
        ("a program that waits 20 ms", "blocking"),
    ],
)
def test_the_figures_are_those_of_the_released_run(row: str, scenario: str) -> None:
    """Each figure of the table is the median of its rounds in the result file."""
    (shown,) = [one for one in table(section(PAGE, "## How fast it is"), "4 workers") if one["4 workers"] == row]
    (outcome,) = [one for one in read(RESULTS).outcomes if one.scenario == scenario]
    medians = {
        name.removesuffix(", 4 workers"): f"{median(loads, throughput):,.0f}" for name, loads in outcome.loads.items()
    }
    figures = {name: figure for name, figure in shown.items() if figure != row and figure}
    assert figures
    for name, figure in figures.items():
        contender = re.sub(r" [0-9.]+$", "", name)
        assert medians[contender] == figure


def test_the_report_of_the_released_run_can_be_written_again(tmp_path: Path) -> None:
    """The result file has all that its report shows, and the performance page quotes the report."""
    write(read(RESULTS), tmp_path)
    report = (tmp_path / "results.md").read_text()
    assert "| Poolshift V2 | 33,676 |" in report
    goals = section(report, "## Goals")
    assert table(goals, "goal") == table(section(page("performance.md"), "## Goals"), "goal")
