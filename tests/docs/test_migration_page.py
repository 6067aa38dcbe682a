"""docs/migration.md: its commands, phases, items and figures are those of the code."""

import re
import shlex
from importlib import import_module
from typing import Any, get_args

import pytest
import typer.main

from cli.errors import ExitCode
from cli.main import MODULES
from cli.migration import MEMORY_S, THOROUGH_MEMORY_S
from cli.migration import app as migration_commands
from cli.rollout.rollback_check import IN_FORCE_TIMEOUT_S, WATCH_S
from cli.validation import live, measure, parallel, tuning
from cli.validation.conformance import CASES
from cli.validation.errors import PROVOCATIONS
from cli.validation.outcome import State
from cli.validation.run import NEEDS_SCRATCH
from routing.migration.checklist import NAMES
from routing.migration.phases import QUIET_DAYS, WITHOUT_V1, Phase
from routing.rollout.coverage import MIN_CALLS
from routing.rollout.plan import parse_plan
from tests.support.pages import blocks, codes, page, section, table

PAGE = page("migration.md")
TEXT = " ".join(PAGE.split())
COMMANDS = [line[2:].partition(" > ")[0] for line in PAGE.splitlines() if line.startswith("$ poolshift ")]


def test_the_phases_are_those_of_the_code() -> None:
    assert [codes(row["phase"])[0] for row in table(PAGE, "phase")] == list(Phase)


def test_the_items_are_those_of_the_code() -> None:
    """In the guide's order, each with the service that it runs on."""
    rows = table(PAGE, "item")
    assert [codes(row["item"])[0] for row in rows] == list(NAMES)
    assert {codes(row["item"])[0] for row in rows if row["runs on"] == "scratch"} == set(NEEDS_SCRATCH)


def test_the_output_of_the_validation_has_all_items() -> None:
    """Each line is an item with its state."""
    shown = re.findall(r"^(\w+) +(\w+) +\S", section(PAGE, "## Phase 2: validation"), re.MULTILINE)
    lines = [(item, state) for item, state in shown if item in NAMES]
    assert {item for item, _ in lines} == set(NAMES)
    assert {state for _, state in lines} <= set(get_args(State))


@pytest.mark.parametrize(
    "text",
    [
        f"the calls of the last {QUIET_DAYS} days",
        f"sleep for {parallel.SLEEP_S} s",
        f"{parallel.SESSIONS} sessions at once, {parallel.ROUNDS} rounds",
        f"{2 * parallel.SESSIONS * parallel.ROUNDS} rounds of {parallel.SESSIONS} sessions",
        f"{2 * len(CASES)} conformance tests",
        f"{len(PROVOCATIONS)} errors of the taxonomy",
        f"{measure.ROUNDS} rounds of {measure.ROUND_S} s",
        f"{measure.THROUGHPUT_FLOOR} × V1's or more",
        f"on V2 for {measure.LOAD_S:g} s",
        f"at most {measure.MAX_GROWTH:,.0f} bytes a call",
        f"for {MEMORY_S:g} s (`--thorough`: {THOROUGH_MEMORY_S:g} s)",
        f"at most {live.MAX_SERIES:,} series",
        f"below {live.NEAR_PROMOTION:g} × V1's",
        f"has run {MIN_CALLS} calls or copies of each program",
        f"for {IN_FORCE_TIMEOUT_S:g} s at most. The others watch for {WATCH_S:g} s",
        f"at most {100 * tuning.TARGET_WAIT:g} % of the mean service time",
        f"Below {tuning.MIN_CALLS} calls",
        f"{ExitCode.USAGE:d} is a file or a program that is not there, {ExitCode.UNREACHABLE:d} a service that does "
        f"not answer, {ExitCode.NOT_ALLOWED:d} a key without the scope",
        *WITHOUT_V1,
    ],
)
def test_a_figure_is_that_of_the_code(text: str) -> None:
    assert text in TEXT


def test_the_plan_can_be_taken() -> None:
    """The page's plan is one, with an item for a person."""
    (plan,) = (block.text for block in blocks(PAGE) if block.info == "yaml")
    assert parse_plan(plan.encode()).manual == ("support team told",)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_given(command: str) -> None:
    """Each command exists with the options that the page gives it."""
    _, group, *words = shlex.split(command)
    assert group in MODULES
    named: Any = typer.main.get_command(import_module(MODULES[group]).app)
    while hasattr(named, "commands"):
        named = named.commands[words.pop(0)]
    options = {option for one in named.params for option in one.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_command_of_the_migration_is_on_the_page() -> None:
    """A new subcommand needs its place in the guide."""
    told = set(re.findall(r"poolshift migration (\w+)", TEXT))
    assert told == {str(one.name) for one in migration_commands.registered_commands}
