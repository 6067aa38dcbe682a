"""docs/console.md: every page, scope and setting of the console has its place."""

import re

from app.console.login import LIFETIME_S, MAX_FAILURES
from app.console.navigation import TITLES
from config.api_keys import Scope
from config.settings import Settings
from tests.console.screenshots import PAGES as PAGES_TAKEN
from tests.console.screenshots import PICTURES
from tests.support.pages import codes, page, section, table

PAGE = page("console.md")


def test_every_page_is_described() -> None:
    """In the order of the navigation."""
    assert [row["page"] for row in table(section(PAGE, "## Pages"), "page")] == list(TITLES.values())


def test_every_scope_and_setting_is_described() -> None:
    access = section(PAGE, "## Access")
    assert {codes(row["scope"])[0] for row in table(access, "scope")} == {str(scope) for scope in Scope}
    settings = {name.upper() for name in Settings.model_fields if name.startswith("console_")}
    assert settings <= set(codes(access))
    assert f"{LIFETIME_S // 3600} hours" in access
    assert MAX_FAILURES == 10
    assert "Ten failed logins" in access


def test_every_picture_is_there_light_and_dark() -> None:
    """`make screenshots` takes a picture of each page; the page shows each, and no other one exists."""
    shown = set(re.findall(r"pictures/console/([\w-]+\.png)", PAGE))
    there = {path.name for path in PICTURES.iterdir()}
    assert shown == there == {f"{name}-{scheme}.png" for name in PAGES_TAKEN for scheme in ("light", "dark")}
