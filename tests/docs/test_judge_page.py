"""docs/judge.md: its table of guardrails is the code's, and its pictures are there."""

import re

from typer.testing import CliRunner

from analysis.guardrails import GUARDRAIL_OF, GUARDRAILS
from cli.main import app
from tests.support.pages import blocks, codes, page, table
from tests.support.service import ROOT

PAGE = page("judge.md")


def test_the_guardrails_are_those_of_the_code() -> None:
    rows = {name: row for row in table(PAGE, "guardrail") for name in codes(row["guardrail"])}
    assert list(rows) == [one.name for one in GUARDRAILS]
    for one in GUARDRAILS:
        row = rows[one.name]
        assert row["default action"] == one.action.value
        assert row["share of α"] == (f"{one.share:.0%} of 1 %".replace("%", " %", 1) if one.share else "0.1 %")
        if one.name in GUARDRAIL_OF.values():
            assert codes(row["evidence"]) == [code for code, name in GUARDRAIL_OF.items() if name == one.name]


def test_its_pictures_are_small_and_there() -> None:
    pictures = re.findall(r"\]\((pictures/.*?)\)", PAGE)
    assert pictures
    assert all((ROOT / "docs" / one).stat().st_size < 60_000 for one in pictures)


def test_the_example_of_power_prints_what_the_page_shows() -> None:
    """Both sentences, word for word: the simulations have fixed seeds."""
    (command,) = re.findall(r"^poolshift (judge power .*)$", PAGE, re.MULTILINE)
    shown = next(block.text for block in blocks(PAGE) if block.text.startswith("V2 with 2 times"))
    assert CliRunner().invoke(app, command.split()).stdout == shown


def test_the_example_of_a_promotion_prints_what_the_page_shows() -> None:
    """A line for each guardrail, word for word."""
    (shown,) = (block.text for block in blocks(PAGE) if block.text.startswith("$ poolshift judge power --promotion"))
    command, _, lines = shown.partition("\n")
    assert CliRunner().invoke(app, command.split()[2:]).stdout == lines
