"""Pages that the service serves for people: `/` and `/problems/{code}`, and what programs get there."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from app.api.html_page import plain
from app.application import Application, create_app
from app.problem_kinds import KINDS
from app.problems import Problem
from config.settings import Settings
from tests.unit.test_assets import get

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def app() -> Application:
    """An application that has not started, and that wants keys: none of these pages needs one."""
    return create_app(Settings(_env_file=None))


def text_of(page: str) -> str:
    """Returns the words of a page without its tags."""
    return unescape(re.sub(r"<[^>]+>", "", page))


@pytest.mark.parametrize("code", KINDS)
def test_every_problem_has_its_page(app: Application, code: str) -> None:
    """At its `type`, in three forms that say the same: the meaning, if to send it again, and the remedy."""
    kind, type_ = KINDS[code], json.loads(Problem(code, "").body())["type"]
    page, data, text = (get(app, type_, headers=headers) for headers in (BROWSER, {"accept": "application/json"}, {}))
    assert [one.status_code for one in (page, data, text)] == [200] * 3
    assert page.headers["content-type"].startswith("text/html")
    assert text.headers["content-type"].startswith("text/plain")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    for said in (text_of(page.text), text.text.replace("`", "")):
        for part in (kind.title, kind.when, kind.remedy):
            assert plain(part).replace("`", "")[1:] in said
        assert ("Yes: the program surely did not start" in said) == kind.retry_safe
    view = data.json()
    assert (view["type"], view["code"], view["retry_safe"]) == (type_, code, kind.retry_safe)


def test_an_unknown_code_is_not_found(app: Application) -> None:
    """As a problem, whose own page is there; nothing of the address is in it unescaped."""
    answer = get(app, "/problems/<script>", headers=BROWSER)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not_found")
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_list_links_to_every_code(app: Application) -> None:
    """As a page and as data."""
    page = get(app, "/problems", headers=BROWSER).text
    assert re.findall(r'href="/problems/(\w+)"', page) == list(KINDS)
    assert [item["code"] for item in get(app, "/problems").json()["items"]] == list(KINDS)


def test_the_root_links_to_what_is_there(app: Application) -> None:
    """The links of the page and of the data are the same, and each path is one that the application has."""
    data = get(app, "/").json()
    page = get(app, "/", headers=BROWSER).text
    paths = list(data["links"].values())
    assert {"/docs", "/openapi.json", "/problems"} <= set(paths)
    assert re.findall(r'<a href="([^"]+)"', page) == paths
    for path in set(paths) - {"/readyz", "/metrics", "/console"}:  # these need a service that has started
        assert get(app, path).status_code == 200
    assert "curl http://127.0.0.1/programs/keywords/execute" in text_of(page)


def test_the_root_shows_a_call_of_a_module_that_is_allowed() -> None:
    """The form of a call, if the workers may not import the examples."""
    app = create_app(Settings(_env_file=None, program_modules="orders, more"))
    page = text_of(get(app, "/", headers=BROWSER).text)
    assert '"entrypoint": "orders:FUNCTION"' in page
    assert "curl http://127.0.0.1/programs/first/execute" in page
    assert "examples" not in page


def test_a_title_names_the_service_once(app: Application) -> None:
    """The root's title is the name alone."""
    titles = [
        re.findall("<title>(.*)</title>", get(app, path, headers=BROWSER).text)
        for path in ("/", "/problems", "/problems/not_found")
    ]
    assert titles == [["Poolshift"], ["Problems · Poolshift"], ["There is nothing here · Poolshift"]]


def test_needs_no_key(tmp_path: Path) -> None:
    """A caller that is refused can read the page that says why."""
    (tmp_path / "keys.json").write_text('{"keys": []}')
    app = create_app(Settings(_env_file=None, api_keys_file=tmp_path / "keys.json"))
    refused = get(app, "/docs")
    assert refused.status_code == 401
    assert get(app, refused.json()["type"], headers=BROWSER).status_code == 200
    assert "Authorization: Bearer KEY" in text_of(get(app, "/", headers=BROWSER).text)
