"""The site, as `make site` builds it."""

import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.ship.tools import run
from tests.support.service import ROOT
from tests.support.tools import tool

pytestmark = pytest.mark.ship

PAGES = ["index.html", "tutorial.html", "errors.html", "reference/client.html", "swagger/index.html"]


class References(HTMLParser):
    """The addresses that a page names, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name == "href" and value and tag == "a":
                self.links.add(value)
            elif name in ("src", "href") and value:
                self.loaded.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: the generator ends at a page that is not there, or an anchor."""
    place = tmp_path_factory.mktemp("site") / "site"
    run("make", "site", f"SITE={place}", cwd=ROOT)
    return place


def test_each_link_leads_somewhere(site: Path) -> None:
    """Files and anchors of the site; what a page loads is a file of it, too."""
    found = {path.resolve(): References(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert {site / name for name in PAGES} <= found.keys()
    dead = []
    for path, references in found.items():
        assert not {url for url in references.loaded if urlsplit(url).scheme not in ("", "data")}, path
        for url in references.links | references.loaded:
            parts = urlsplit(url)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not parts.scheme and not target.exists():
                dead.append(f"{path.relative_to(site)}: {url}")
            elif not parts.scheme and target in found and parts.fragment:
                is_there = unquote(parts.fragment) in found[target].anchors
                dead += [] if is_there else [f"{path.relative_to(site)}: {url}"]
    assert not dead


def test_the_references_have_the_docstrings(site: Path) -> None:
    """The client, `poolshift.testing` and the HTTP API are in the site."""
    assert "A typed client of Poolshift's HTTP API" in (site / "reference/client.html").read_text()
    assert 'id="poolshift.testing.load"' in (site / "reference/testing.html").read_text()
    assert (site / "openapi.json").read_bytes() == (ROOT / "docs/openapi.json").read_bytes()


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing of its requests."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def is_foreign(url: str, address: str) -> bool:
    """Tells if a page asks another host."""
    return url.startswith("http") and not url.startswith(address)


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_it_needs_no_other_host(address: str, width: int) -> None:
    """Pages load from the site alone, without an error, fit the screen, and can be searched."""
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: faults.append(asked.url) if is_foreign(asked.url, address) else None)
        for name in PAGES:
            page.goto(f"{address}{name}", wait_until="networkidle")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        page.goto(f"{address}index.html")
        page.keyboard.press("/")
        page.keyboard.type("quarantine")
        expect(page.locator("a[href*='programs.html']").filter(has_text="uarantine").first).to_be_visible()
        browser.close()
    assert not faults
