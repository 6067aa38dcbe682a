"""Writes the sources of the site: `python -m tools.site_source FOLDER`, for `make site`.

The pages are those of the repository, as a generator takes them: blocks lose the words that only tests read, and links
follow the pages to their places. A link to a file that the site does not have becomes text.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js", "LICENSE", "NOTICE")
_FENCE = re.compile(r"^(```\w+) .+$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")

_ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changelog.md",
}
_GROUPS = {
    "Begin": "tutorial programs sessions lm streaming client cli",
    "Move traffic": "migration pools shadow rollout judge acts",
    "Operate": "deploy configuration scaling console metrics observability errors faults security performance",
    "Reference": "reference/*",
    "Runbooks": "runbooks/*",
    "Decisions": "adr/*",
    "Project": "*",
}
"""Headings and the pages under them, without `.md`; a page is under the first heading that names it."""

_WRITTEN = {
    "reference/client.md": "# poolshift.client\n\n::: poolshift.client\n",
    "reference/testing.md": "# poolshift.testing\n\n::: poolshift.testing\n",
    "reference/http-api.md": (
        "# The HTTP API\n\n[Swagger UI](../swagger/index.html) shows the [OpenAPI document](../openapi.json) of the"
        " last release. A running service has its own at `/docs` and `/openapi.json`.\n"
    ),
    "swagger/index.html": """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Poolshift: the HTTP API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="swagger-ui.css">
<link rel="stylesheet" href="documentation.css">
</head>
<body>
<div id="swagger-ui" data-openapi="../openapi.json"></div>
<noscript><a href="../openapi.json">The OpenAPI document</a> has all that this page shows.</noscript>
<script src="swagger-ui-bundle.js"></script>
<script src="swagger.js"></script>
</body>
</html>
""",
}
_CONFIGURATION = """\
[project]
site_name = "Poolshift"
site_description = "Runs Python programs on pools of workers, and moves their traffic to the next version in steps."
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = {nav}

[project.theme]
font = false # no page asks another host for anything
features = ["navigation.sections", "navigation.top", "search.highlight"]

[project.plugins.search]

[project.plugins.mkdocstrings.handlers.python]
paths = [{root}]

[project.plugins.mkdocstrings.handlers.python.options]
show_root_toc_entry = false
show_source = false
"""


def write(folder: Path) -> None:
    """Writes the sources into `folder`, which is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    shutil.copytree(DOCS, pages)
    for path in DOCS.rglob("*.md"):
        (pages / path.relative_to(DOCS)).write_text(page(path))
    for name, target in _ROOT_PAGES.items():
        (pages / target).write_text(page(ROOT / name))
    for name, text in _WRITTEN.items():
        (pages / name).parent.mkdir(exist_ok=True)
        (pages / name).write_text(text)
    for name in _SWAGGER:
        shutil.copy(ROOT / "app/vendored/swagger-ui-dist" / name, pages / "swagger")
    for name in ("swagger.js", "documentation.css"):
        shutil.copy(ROOT / "app/static" / name, pages / "swagger")
    nav = json.dumps(["index.md", *navigation(pages)])[1:-1].replace('{"', '{ "').replace('": ', '" = ')
    (folder / "zensical.toml").write_text(_CONFIGURATION.format(nav=f"[{nav}]", root=json.dumps(str(ROOT))))


def page(path: Path, root: Path = ROOT) -> str:
    """Returns the text of a page as the site has it."""
    return _LINK.sub(lambda link: _moved(link, path, root), _FENCE.sub(r"\1", path.read_text()))


def navigation(pages: Path) -> Iterator[dict[str, list[str]]]:
    """Yields the headings with their pages."""
    left = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")} - {"index.md"}
    for heading, names in _GROUPS.items():
        found = [
            path.relative_to(pages).as_posix() for name in names.split() for path in sorted(pages.glob(f"{name}.md"))
        ]
        yield {heading: [name for name in found if name in left]}
        left -= set(found)


def _moved(link: re.Match[str], path: Path, root: Path) -> str:
    """A link of the page at `path`, from its place in the site."""
    target, mark, anchor = link["target"].partition("#")
    if ":" in target or not target:
        return link[0]
    place = _place((path.parent / target).resolve(), root)
    if place is None:
        return link["text"]
    own = _place(path, root)
    assert own is not None, path
    return f"[{link['text']}]({os.path.relpath(place, own.parent)}{mark}{anchor})"


def _place(path: Path, root: Path) -> Path | None:
    """The path in the site of a file of the repository; None if the site does not have it."""
    if path.parent == root and path.name in _ROOT_PAGES:
        return Path(_ROOT_PAGES[path.name])
    return path.relative_to(root / "docs") if path.is_file() and path.is_relative_to(root / "docs") else None


if __name__ == "__main__":
    write(Path(sys.argv[1]))
