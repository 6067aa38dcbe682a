"""The console in a real browser: what it loads, what it says to assistive technology, and how fast it rolls back."""

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

from app.console.navigation import PAGES
from tests.console.support import Keys, program
from tests.replicas.conftest import Postgres, empty_cluster, postgres, postgres_folder
from tests.support.service import Service, running_service
from tests.support.tools import tool
from tests.support.waiting import wait_until

__all__ = ["empty_cluster", "postgres", "postgres_folder"]
pytestmark = pytest.mark.browser

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"{{7*7}}"
"""Text that would run, or break out of an attribute, if any page took it for markup."""
PATHS = {page.path: page.is_live for page in PAGES} | {"/programs/says": False, "/rollback": False}
"""Each page, and if it is live."""
MAX_NODES = 3000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Service]:
    """A service with hostile text in everything that the API takes: ids, reasons, descriptions, errors and outputs."""
    with running_service(tmp_path_factory.mktemp("browser"), API_KEYS_FILE=keys.path) as service:
        fill(service, keys)
        yield service


def fill(service: Service, keys: Keys) -> None:
    headers = keys.bearer()
    program(service, keys, "says", "echo", {"nonce": "string"}, instructions=MARKUP, idempotent=True)
    program(service, keys, "raises", "fail", {"message": "string"})
    plan = {"name": MARKUP[:64], "steps": [{"percent": 5, "hold_s": 3600}, {"percent": 50, "hold_s": 3600}]}
    assert service.client.put("/rollout/plan", json=plan, headers=headers).status_code == 200
    assert service.client.post("/rollout/start", json={"reason": MARKUP}, headers=headers).status_code == 200
    for number in range(10):
        body = {"inputs": {"message": MARKUP}, "session_id": f"s-{number}"}
        assert service.client.post("/programs/raises/execute", json=body, headers=headers).status_code == 500
        ok = {"inputs": {"nonce": MARKUP}}
        assert service.client.post("/programs/says/execute", json=ok, headers=headers).status_code == 200
    service.client.post(f"/programs/{MARKUP.replace('/', '|')}/execute", json={"inputs": {}}, headers=headers)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium with all of its protection, except the sandbox, which root cannot have."""
    browser = playwright.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
    yield browser
    browser.close()


class Watched:
    """A page of a context of its own, and everything that went wrong on it."""

    def __init__(self, context: BrowserContext, service: Service) -> None:
        self.faults: list[str] = []
        self._service = service
        self.page = context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", self._opened)
        self.page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _opened(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(f"{self._service.url}/"):
            self.faults.append(f"foreign: {request.url}")

    def goto(self, path: str) -> None:
        self.page.goto(f"{self._service.url}/console{path}")


@contextmanager
def tab(browser: Browser, service: Service, key: str | None, **options: Any) -> Iterator[Watched]:
    """A tab of a fresh browser context, logged in with a key."""
    context = browser.new_context(**options)
    try:
        watched = Watched(context, service)
        if key is not None:
            watched.goto("/login")
            watched.page.locator("input[type=password]").fill(key)
            watched.page.keyboard.press("Enter")
            expect(watched.page.get_by_role("heading", name="Overview")).to_be_visible()
        yield watched
    finally:
        context.close()


def is_live(page: Page) -> None:
    expect(page.locator("#liveness")).to_have_text("Live", timeout=10_000)


def percent_is(page: Page, percent: str) -> None:
    expect(page.locator("#percent")).to_have_text(re.compile(rf"^{percent}\s%$"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_load_nothing_foreign_and_are_accessible(
    browser: Browser, service: Service, keys: Keys, scheme: Any
) -> None:
    """Each page with hostile text everywhere: own files alone, no violation of the policy, no error, none of axe's."""
    axe = Axe()
    with tab(browser, service, keys.of["admin"], color_scheme=scheme) as watched:
        for path, follows in PATHS.items():
            watched.goto(path)
            if follows:
                is_live(watched.page)
            found = axe.run(watched.page)
            assert found.violations_count == 0, f"{path}: {found.generate_report()}"
            assert watched.page.evaluate("document.querySelectorAll('*').length") < MAX_NODES
            titles = [name for name in watched.page.locator("nav a").all_inner_texts() if name]
            assert titles == [page.title for page in PAGES]
        assert watched.faults == []
    with tab(browser, service, None, color_scheme=scheme) as watched:
        watched.goto("")
        assert axe.run(watched.page).violations_count == 0
        assert watched.faults == []


def test_the_api_can_be_read_and_tried(browser: Browser, service: Service, keys: Keys) -> None:
    """`/docs` under a policy as strict as the console's: nothing foreign, nothing serious of axe's, and a call."""
    with tab(browser, service, None, extra_http_headers=keys.bearer()) as watched:
        page = watched.page
        page.goto(f"{service.url}/docs")
        listing = page.locator("#operations-programs-list_programs")
        expect(listing).to_be_visible(timeout=30_000)
        found = Axe().run(page).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        listing.locator(".opblock-summary-control").click()
        listing.get_by_role("button", name="Try it out").click()
        listing.get_by_role("button", name="Execute").click()
        expect(listing.locator(".live-responses-table td.response-col_status").last).to_have_text("200", timeout=30_000)
        assert page.url == f"{service.url}/docs#/programs/list_programs"
        assert watched.faults == []


def test_hostile_text_is_text(browser: Browser, service: Service, keys: Keys) -> None:
    """Reasons, details, instructions and outputs are shown as they are, and make no element."""
    with tab(browser, service, keys.of["admin"]) as watched:
        page = watched.page
        for path in ("", "/failures", "/programs/says", "/history"):
            watched.goto(path)
            expect(page.get_by_text(MARKUP[:28]).first).to_be_visible()
            assert page.locator("img, main script").count() == 0
        watched.goto("/programs/says")
        page.get_by_label("nonce").fill(MARKUP)
        page.get_by_label("both, side by side").check()
        page.get_by_role("button", name="Run").click()
        results = page.locator("#results pre")
        expect(results).to_have_count(2)
        for result in results.all_inner_texts():
            assert "<img src=x" in result
        expect(page.locator("#results h3")).to_have_text([re.compile("V1"), re.compile("V2")])
        watched.goto(f"/failures?code={MARKUP[:60]}")
        watched.goto(f"/programs?session={MARKUP}")
        watched.goto(f"/?done={MARKUP}")
        assert page.locator("img, main script").count() == 0
        assert [one for one in watched.faults if "status of 422" not in one] == []


@pytest.mark.timing
def test_set_and_roll_back_by_keyboard_alone(browser: Browser, service: Service, keys: Keys) -> None:
    """From the login to 0 % without a mouse; 0 % is shown within a second, no call goes to V2 later."""
    with tab(browser, service, None) as watched:
        page = watched.page
        watched.goto("")
        expect(page.locator("input[type=password]")).to_be_focused()
        page.keyboard.type(keys.of["operate"])
        page.keyboard.press("Enter")
        is_live(page)
        tab_to(page, "V2 in %")
        page.keyboard.press("Control+A")
        page.keyboard.type("5")
        page.keyboard.press("Tab")
        page.keyboard.type("by keyboard")
        page.keyboard.press("Enter")
        percent_is(page, "5")
        expect(page.get_by_text("by keyboard", exact=True)).to_be_visible()
        tab_to(page, "Roll back")
        page.keyboard.press("Enter")
        expect(page.locator("input[name=reason]")).to_be_focused()
        page.keyboard.type("enough")
        began = time.monotonic()
        page.keyboard.press("Enter")
        percent_is(page, "0")
        assert time.monotonic() - began < 1.0
        assert service.metric("poolshift_rollback_last_dispatch_seconds") < 1.0
        assert watched.faults == []
    newest = service.client.get("/rollout/history?limit=1", headers=keys.bearer()).json()["items"][0]
    assert (newest["to_percent"], newest["updated_by"], newest["reason"]) == (0, "the operate", "enough")


def tab_to(page: Page, label: str) -> None:
    """Presses Tab until the focus is on what has this name."""
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "(e => (e.labels?.length ? e.labels[0].innerText : e.innerText || '').trim())(document.activeElement)"
        )
        if name.startswith(label):
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
            return
    raise AssertionError(f"the keyboard does not reach {label!r}")


def test_two_tabs_and_a_stale_revision(browser: Browser, service: Service, keys: Keys) -> None:
    """A form that has the focus is not replaced: it goes with the revision that was looked at, and is refused."""
    with tab(browser, service, keys.of["admin"]) as first, tab(browser, service, keys.of["operate"]) as second:
        is_live(second.page)
        field = second.page.get_by_label("V2 in %")
        field.fill("50")
        first.page.get_by_label("V2 in %").fill("3")
        first.page.get_by_role("button", name="Set", exact=True).click()
        percent_is(first.page, "3")
        percent_is(second.page, "3")  # live, beside the form
        expect(field).to_have_value("50")
        field.press("Enter")
        expect(second.page.get_by_role("alert")).to_contain_text(
            re.compile(r"key the admin changed it to 3 % a moment ago")
        )
        percent_is(second.page, "3")
        second.page.get_by_role("button", name="Roll back").click()
        second.page.get_by_role("button", name="Roll back").click()
        percent_is(second.page, "0")
        percent_is(first.page, "0")


def test_an_observer_sees_no_button(browser: Browser, service: Service, keys: Keys) -> None:
    """But the one that signs out; nor does a frame bring one."""
    with tab(browser, service, keys.of["observe"]) as watched:
        for path in ("", "/pools", "/failures", "/programs/says"):
            watched.goto(path)
            if path != "/programs/says":
                is_live(watched.page)
            assert watched.page.get_by_role("button").all_inner_texts() == ["Sign out"]
        watched.page.get_by_role("button", name="Sign out").click()
        expect(watched.page.locator("input[type=password]")).to_be_visible()


@pytest.mark.parametrize(
    "options", [{"viewport": {"width": 360, "height": 740}}, {"viewport": {"width": 640, "height": 450}}]
)
def test_small_screens_and_zoom(browser: Browser, service: Service, keys: Keys, options: Any) -> None:
    """At 360 px, and at 200 % zoom of a 1280 px screen, no page scrolls sideways and the way back is in reach."""
    with tab(browser, service, keys.of["admin"], **options, reduced_motion="reduce") as watched:
        for path in PATHS:
            watched.goto(path)
            width = watched.page.evaluate("document.documentElement.scrollWidth")
            assert width <= options["viewport"]["width"], path
            expect(watched.page.get_by_role("button", name="Roll back")).to_be_in_viewport()
        assert watched.faults == []


def test_a_hidden_tab_lets_go(browser: Browser, service: Service, keys: Keys) -> None:
    """A live tab is one stream; the sampler runs only while somebody looks."""
    with tab(browser, service, keys.of["admin"]) as watched:
        is_live(watched.page)
        watched.page.evaluate(
            "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        wait_until(lambda: viewers(service) == 0, "the hidden tab's stream has ended")
        watched.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        wait_until(lambda: viewers(service) == 1, "the tab is live again")


def viewers(service: Service) -> float:
    return service.metric("poolshift_console_viewers")


@pytest.mark.timing
def test_tabs_neither_hold_up_a_stop_nor_miss_the_next_start(browser: Browser, tmp_path: Path) -> None:
    """SIGTERM with three live tabs adds nothing to the shutdown, which would wait 5 s for them otherwise.

    A tab says that it is stale, goes on with the next run by itself, and no chart has two points for a second.
    """
    service = Service(tmp_path)
    try:
        service.start()
        with tab(browser, service, None) as watched:
            pages = [watched.page, watched.page.context.new_page(), watched.page.context.new_page()]
            for page in pages:
                page.goto(f"{service.url}/console")
                is_live(page)
            wait_until(lambda: points(watched.page) > 1, "the chart has points")
            began = time.monotonic()
            assert service.stop(signal.SIGTERM) == 0
            assert time.monotonic() - began < 3.0
            before = points(watched.page)
            expect(watched.page.locator("#liveness")).to_have_text(re.compile(r"^Stale since \d+ s$"), timeout=10_000)
            service.start()
            is_live(watched.page)
            wait_until(lambda: points(watched.page) > before + 1, "the chart goes on")
            for name in ("calls", "faults", "p95_ms", "queue"):
                moments = watched.page.evaluate(f"poolshiftConsole.plots.get('{name}').data[0]")
                assert moments == sorted(set(moments))
    finally:
        service.close()


def points(page: Page) -> int:
    """The seconds that a page's charts have a point for."""
    count: int = page.evaluate("poolshiftConsole.points.size")
    return count


def test_a_rollback_with_a_dead_database(browser: Browser, tmp_path: Path, postgres: Postgres) -> None:
    """The same two clicks: in force here, not yet written, and written once the database is back."""
    with (
        running_service(tmp_path, DATABASE_URL=postgres.url, CANARY_PERCENT=5) as service,
        tab(browser, service, None) as watched,
    ):
        page = watched.page
        watched.goto("")
        is_live(page)
        percent_is(page, "5")
        postgres.stop()
        page.get_by_role("button", name="Roll back").click()
        page.locator("[name=reason]").fill("the database is dead, too")
        with ThreadPoolExecutor(1) as pool:
            pressed = time.monotonic()
            page.get_by_role("button", name="Roll back").click(no_wait_after=True)
            told = pool.submit(first_zero, service, pressed)
            assert told.result() < 1.0
        percent_is(page, "0")
        expect(page.get_by_text("In force here, not yet written").first).to_be_visible()
        postgres.start()
        expect(page.locator("#revision")).not_to_have_text("1", timeout=30_000)
        watched.goto("/history")
        expect(page.get_by_text("the database is dead, too")).to_be_visible()


def first_zero(service: Service, pressed: float) -> float:
    """The time from the click until the service sends nothing to V2, whatever its page waits for."""
    wait_until(lambda: service.client.get("/rollout").json()["canary_percent"] == 0, "0 % is in force")
    return time.monotonic() - pressed
