"""docs/security.md: each promise names tests that exist and is against somebody whom the page describes."""

import re

import pytest

from config.api_keys import Scope
from tests.support.pages import codes, page, section, table
from tests.support.service import ROOT

PAGE = page("security.md")
WHO = {row["who"]: row for row in table(section(PAGE, "## Who and what"), "who")}
PROMISES = table(section(PAGE, "## Promises"), "promise")
FILES = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
TESTS = [named for row in PROMISES for named in codes(row["test"])]


@pytest.mark.parametrize("named", TESTS)
def test_the_test_of_a_promise_is_there(named: str) -> None:
    """And is a test function of the file that is named."""
    file, _, function = named.partition("::")
    assert re.search(rf"^(async )?def {function}\(", FILES[file].read_text(), re.MULTILINE), named


def test_each_promise_has_a_test_and_is_against_somebody() -> None:
    """Nobody is described against whom nothing is promised, except those who are trusted with all."""
    against = set()
    for row in PROMISES:
        assert codes(row["test"]), row["promise"]
        found = {who.strip() for who in row["against"].split(",")}
        assert found <= WHO.keys(), row["promise"]
        against |= found
    assert against == WHO.keys()
    assert all(row["can"] and row["cannot"] for row in WHO.values())


def test_every_scope_is_described() -> None:
    """Each has a row of its own."""
    assert {who.removesuffix(" key") for who in WHO} >= {str(scope) for scope in Scope}
