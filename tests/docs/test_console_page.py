"""docs/console.md: every page, scope and setting of the console has its place."""

from app.console.rendering import PAGES
from app.console.sessions import LIFETIME_S, MAX_FAILURES
from config.api_keys import Scope
from config.settings import Settings
from tests.support.pages import codes, page, section, table

PAGE = page("console.md")


def test_every_page_is_described() -> None:
    """In the order of the navigation."""
    assert [row["page"] for row in table(section(PAGE, "## Pages"), "page")] == [title for _, _, title in PAGES]


def test_every_scope_and_setting_is_described() -> None:
    access = section(PAGE, "## Access")
    assert {codes(row["scope"])[0] for row in table(access, "scope")} == {str(scope) for scope in Scope}
    settings = {name.upper() for name in Settings.model_fields if name.startswith("console_")}
    assert settings <= set(codes(access))
    assert f"{LIFETIME_S // 3600} hours" in access
    assert MAX_FAILURES == 10
    assert "Ten failed logins" in access
