"""The console against strangers, other sites and keys without a scope; nothing here needs a browser."""

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from app.console import navigation
from app.console.headers import HEADERS
from tests.console.support import OWN, Keys, log_in, program, revision
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

PAGES = [*(page.path for page in navigation.PAGES), "/programs/echo"]
FORMS: dict[str, dict[str, str]] = {
    "/set": {"percent": "7", "revision": "1"},
    "/rollback": {"reason": "forged"},
    "/plan": {"verb": "start", "revision": "1"},
    "/reload": {"version": "v1", "revision": "1"},
    "/programs/echo/run": {"in.nonce": "a", "on": "split"},
}
"""Every form that acts."""
NEEDS = {"/programs/echo/run": {"execute", "admin"}}
"""Scopes that a form needs, if they are not those of an operator."""
FOREIGN: list[dict[str, str]] = [
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "cross-site", "origin": "http://{host}"},
    {"origin": "https://evil.example"},
    {"origin": "http://{host}.evil.example"},
    {"origin": "null"},
    {"origin": "http://evil.example@{host}"},
    {"referer": "http://{host}/console"},
    {},
]
"""Requests of other sites, and those that do not tell where they come from."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Service]:
    """A service with a key of each scope, and one program."""
    with running_service(tmp_path_factory.mktemp("console"), API_KEYS_FILE=keys.path) as service:
        program(service, keys, "echo", "echo", {"nonce": "string"})
        yield service


@pytest.fixture(scope="module")
def visitors(service: Service, keys: Keys) -> Iterator[dict[str, httpx.Client]]:
    clients = {scope: log_in(service, keys.of[scope]) for scope in ("observe", "operate", "admin")}
    yield clients
    for client in clients.values():
        client.close()


def rollout(service: Service, keys: Keys) -> dict[str, Any]:
    found: dict[str, Any] = service.client.get("/rollout", headers=keys.bearer()).json()
    return found


def is_guarded(answer: httpx.Response) -> bool:
    return HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_every_answer_has_the_headers(service: Service, visitors: dict[str, httpx.Client], method: str) -> None:
    """Pages, redirects, refusals, what does not exist, a body that is too large: all with the policy, none framed."""
    paths = [*PAGES, "/", "/login", "/rollback", "/nothing", "/live", "/live?page=nothing", *FORMS]
    for client in (service.client, *visitors.values()):
        for path in paths:
            assert is_guarded(client.request(method, f"/console{path}")), (method, path)
    huge = service.client.post(
        "/console/login", content=b"a" * 2**21, headers={**OWN, "content-type": "application/x-www-form-urlencoded"}
    )
    assert huge.status_code == 413
    assert is_guarded(huge)
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    assert all(source in ("'self'", "'none'") for rule in policy.split("; ") for source in rule.split()[1:])


def test_a_stranger_sees_the_login_alone(service: Service, keys: Keys) -> None:
    """Every page leads to the login, with its path and nothing else; a key with no scope for it is turned away."""
    for path in PAGES[1:]:
        answer = service.client.get(f"/console{path}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/console/login?next=/console{path}")
    assert service.client.get("/console/live?page=overview", headers={"accept": "text/event-stream"}).status_code == 401
    for key in ("", "wrong", keys.of["execute"], keys.of["admin"][:-1]):
        answer = service.client.post("/console/login", data={"key": key}, headers=OWN)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    page = service.client.get("/console/login").text
    assert len(re.findall(r'<input[^>]*type="password"', page)) == 1


def test_the_login_is_a_strict_cookie_of_the_console(service: Service, keys: Keys) -> None:
    """The cookie is the console's alone, 8 hours long, and secure on TLS; the API takes no cookie."""
    for headers, is_secure in ((OWN, False), ({**OWN, "x-forwarded-proto": "https"}, True)):
        answer = service.client.post("/console/login", data={"key": keys.of["admin"]}, headers=headers)
        cookie = answer.headers["set-cookie"]
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/console", "max-age=28800"} <= attributes
        assert ("secure" in attributes) is is_secure
        value = cookie.partition("=")[2].partition(";")[0]
        assert keys.of["admin"] not in value
        sent = {"cookie": f"poolshift_console={value}"}
        assert service.client.get("/console", headers=sent).status_code == 200
        assert service.client.get("/rollout", headers=sent).status_code == 401
        for forged in (value[:-1], value[:40] + value[39] + value[41:], "a.b.c", "", value.upper()):
            assert service.client.get("/console", headers={"cookie": f"poolshift_console={forged}"}).status_code == 303


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/console/../x", "/console\\x", "/docs"])
def test_the_login_leads_to_no_other_site(service: Service, keys: Keys, target: str) -> None:
    answer = service.client.post("/console/login", data={"key": keys.of["observe"], "next": target}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
def test_a_form_of_another_site_changes_nothing(
    service: Service, keys: Keys, visitors: dict[str, httpx.Client], foreign: dict[str, str]
) -> None:
    """Also the login: another site must not log a victim in under a key of its own."""
    before = rollout(service, keys)
    cookies = "; ".join(f"{name}={value}" for name, value in visitors["admin"].cookies.items())
    host = service.url.removeprefix("http://")
    sent = {"cookie": cookies, **{name: value.format(host=host) for name, value in foreign.items()}}
    for path, form in {**FORMS, "/login": {"key": keys.of["admin"]}, "/logout": {}}.items():
        answer = service.client.post(f"/console{path}", data=form, headers=sent)
        assert answer.status_code == 403, path
        assert "set-cookie" not in answer.headers
    assert rollout(service, keys) == before


def test_an_own_form_may_come_without_sec_fetch_site(service: Service, keys: Keys) -> None:
    """An older browser sends Origin alone, which must be the host's."""
    answer = service.client.post("/console/login", data={"key": keys.of["observe"]}, headers={"origin": service.url})
    assert answer.status_code == 303


def test_get_changes_nothing(service: Service, keys: Keys, visitors: dict[str, httpx.Client]) -> None:
    """Every path, with the fields of its form in the address."""
    before = rollout(service, keys)
    for path, form in FORMS.items():
        answer = visitors["admin"].get(f"/console{path}", params=form)
        assert answer.status_code in (200, 404, 405)
    assert rollout(service, keys) == before


@pytest.mark.parametrize("scope", ["observe", "operate", "admin"])
def test_forms_need_their_scope_and_nobody_sees_others(
    service: Service, keys: Keys, visitors: dict[str, httpx.Client], scope: str
) -> None:
    """A forged form is refused and changes nothing; a page has the buttons alone that its visitor may press."""
    client = visitors[scope]
    pages = "".join(client.get(f"/console{path}").text for path in PAGES)
    for path, form in FORMS.items():
        may = scope in NEEDS.get(path, {"operate", "admin"})
        action = "/console/rollback" if path == "/rollback" else f'action="/console{path}"'
        if path != "/plan":  # without a plan there is nothing to do with it
            assert (action in pages) is may, path
        if not may:
            before = rollout(service, keys)
            assert client.post(f"/console{path}", data=form).status_code == 403, path
            assert rollout(service, keys) == before
    assert (client.get("/console/rollback").status_code == 200) is (scope != "observe")


def test_details_are_for_admins(service: Service, keys: Keys, visitors: dict[str, httpx.Client]) -> None:
    """The page and the API show them to no other scope."""
    secret = "secret-detail"
    program(service, keys, "raises", "fail", {"message": "string"})
    answer = service.client.post(
        "/programs/raises/execute", json={"inputs": {"message": secret}}, headers=keys.bearer()
    )
    assert answer.status_code == 500
    for scope, client in visitors.items():
        assert (secret in client.get("/console/failures?code=program_error").text) is (scope == "admin")
        api = service.client.get("/failures", headers=keys.bearer(scope))
        assert api.status_code == 200
        assert "program_error" in api.text
        assert (secret in api.text) is (scope == "admin")


def test_a_stale_form_changes_nothing_and_says_who_was_first(
    service: Service, keys: Keys, visitors: dict[str, httpx.Client]
) -> None:
    """Two operators looked at the same revision; so did a third one, who wanted to move the plan or to reload."""
    seen = revision(visitors["operate"])
    first = visitors["admin"].post("/console/set", data={"percent": "5", "reason": "first", "revision": seen})
    assert (first.status_code, first.headers["location"]) == (303, "/console?done=set")
    for path, form in (
        ("/set", {"percent": "50"}),
        ("/plan", {"verb": "start"}),
        ("/reload", {"version": "v2"}),
    ):
        answer = visitors["operate"].post(f"/console{path}", data={**form, "revision": seen, "reason": "second"})
        assert answer.status_code == 412
        assert "key the admin changed it to 5 % a moment ago" in answer.text
    assert rollout(service, keys)["canary_percent"] == 5
    assert visitors["operate"].post("/console/rollback", data={"reason": "enough"}).status_code == 303
    newest = service.client.get("/rollout/history?limit=1", headers=keys.bearer()).json()["items"][0]
    assert (newest["to_percent"], newest["updated_by"], newest["reason"]) == (0, "the operate", "enough")


@pytest.mark.parametrize("percent", ["", "-1", "101", "5.001", "NaN", "1e999", "abc", "٥"])
def test_a_wrong_percentage_is_explained(service: Service, visitors: dict[str, httpx.Client], percent: str) -> None:
    client = visitors["admin"]
    answer = client.post("/console/set", data={"percent": percent, "revision": revision(client)})
    assert answer.status_code == 422
    assert "is not a percentage" in answer.text


def test_a_foreign_host_gets_nothing(tmp_path: Any) -> None:
    """Without keys on loopback the console is open to this machine's own pages, not to a name that is rebound to it."""
    with running_service(tmp_path) as service:
        page = service.client.get("/console")
        assert page.status_code == 200
        assert "Sign out" not in page.text
        for host in ("evil.example", "127.0.0.1.evil.example"):
            for method in ("GET", "POST"):
                answer = service.client.request(method, "/console", headers={"host": host, **OWN})
                assert answer.status_code == 403
                assert is_guarded(answer)
        forged = service.client.post("/console/rollback", headers={"origin": "http://localhost:3000"})
        assert forged.status_code == 403


def test_a_proxy_names_the_visitor_only_from_its_own_address(tmp_path: Any) -> None:
    """The header counts from a trusted address, once; the visitor has the scope that the settings give."""
    keys = Keys(tmp_path / "keys.json")
    settings = {"API_KEYS_FILE": keys.path, "CONSOLE_USER_HEADER": "X-Forwarded-User"}
    for proxies, is_trusted in (("10.0.0.0/8", False), ("127.0.0.0/8", True)):
        with running_service(
            tmp_path, **settings, CONSOLE_TRUSTED_PROXIES=proxies, CONSOLE_USER_SCOPE="operate"
        ) as service:
            sent = [("x-forwarded-user", "ada@example.org"), *OWN.items()]
            assert service.client.get("/console", headers=sent).status_code == (200 if is_trusted else 303)
            assert service.client.get("/console", headers=[*sent, sent[0]]).status_code == 303
            assert service.client.get("/rollout", headers=sent).status_code == 401
            answer = service.client.post("/console/rollback", data={"reason": "by proxy"}, headers=sent)
            assert answer.status_code == (303 if is_trusted else 401)
            shown = service.client.get("/rollout", headers=keys.bearer()).json()
            assert (shown["updated_by"] == "ada@example.org") is is_trusted


def test_a_revoked_key_is_out_at_once(service: Service, keys: Keys) -> None:
    """Pages, forms and the stream that is open: no session outlives its key."""
    with closing(log_in(service, keys.of["observe"])) as client:
        with client.stream("GET", "/console/live?page=overview") as stream:
            events = stream.iter_lines()
            assert next(events) == "event: points"
            keys.write("execute", "operate", "admin")
            wait_until(lambda: client.get("/console").status_code == 303, "the login is over")
            for _ in events:
                pass  # the stream ends
        assert client.post("/console/rollback", data={}).status_code == 401
    keys.write(*keys.of)


def test_guesses_of_keys_are_limited(service: Service, keys: Keys) -> None:
    """After ten failures an address waits, even with the right key. The last test: it locks this address out."""
    for _ in range(10):
        service.client.post("/console/login", data={"key": "wrong"}, headers=OWN)
    answer = service.client.post("/console/login", data={"key": keys.of["admin"]}, headers=OWN)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert "set-cookie" not in answer.headers
