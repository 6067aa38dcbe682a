"""The sources of the site: pages as a generator takes them, with links to their places there."""

from pathlib import Path

import pytest

from tests.support.service import ROOT
from tools.site_source import navigation, page, write


def written(folder: Path, place: str, text: str) -> str:
    """A page of the repository with this text, as the site has it."""
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return page(path, folder)


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        ("docs/a.md", "[b](b.md#part), [here](#part)", "[b](b.md#part), [here](#part)"),
        ("docs/a.md", "[start](../README.md#try-it)", "[start](index.md#try-it)"),
        ("docs/sub/c.md", "[`start`](../../README.md)", "[`start`](../index.md)"),
        ("README.md", "[b](docs/b.md), [security](SECURITY.md)", "[b](b.md), [security](reporting.md)"),
        ("README.md", "[tools](make/tools.txt), [folder](docs)", "tools, folder"),
        ("README.md", "[other](https://example.com/b.md)", "[other](https://example.com/b.md)"),
        ("docs/a.md", "```json execute price\n{}\n```\n", "```json\n{}\n```\n"),
    ],
)
def test_a_page_moves(tmp_path: Path, place: str, text: str, expected: str) -> None:
    """Links follow pages, links to other files become text, and blocks have a language alone."""
    for name in ("README.md", "SECURITY.md", "docs/b.md", "make/tools.txt"):
        written(tmp_path, name, "")
    assert written(tmp_path, place, text) == expected


def test_each_page_is_in_the_navigation_once(tmp_path: Path) -> None:
    """A new page is found without being named."""
    write(tmp_path / "source")
    pages = tmp_path / "source/pages"
    groups = [names for group in navigation(pages) for names in group.values()]
    assert all(groups)
    listed = [name for names in groups for name in names]
    assert sorted([*listed, "index.md"]) == sorted(path.relative_to(pages).as_posix() for path in pages.rglob("*.md"))
    assert {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")} <= {
        Path(name) for name in listed
    }
