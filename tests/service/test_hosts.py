"""A page in a user's browser, or a name that is rebound to loopback, gets nothing from a service that is open there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config.api_keys import KeyFile, Scope, StoredKey, hash_key, new_key
from tests.service.test_errors import problem
from tests.support.hostile import BODIES, OPERATIONS, request, send
from tests.support.service import Service, running_service

EXEMPT = {"/healthz", "/readyz", "/metrics"}
PORT = "{port}"
OURS = [
    "localhost:{port}",
    "localhost",
    "LocalHost:{port}",
    "127.0.0.1:{port}",
    "127.0.0.1",
    "127.9.9.9:1",
    "[::1]:{port}",
    "[::1]",
]
FOREIGN = [
    "evil.example",
    "evil.example:{port}",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example@localhost",
    "localhost@evil.example",
    "localhost:evil",
    "10.0.0.1:{port}",
    "0.0.0.0:{port}",
    "[::2]:{port}",
    "::1",
    "2130706433",
    "xn--lcalhost-54a",
    "",
]
PAGES = [
    {"origin": "https://evil.example"},
    {"origin": "http://evil.example:{port}"},
    {"origin": "null"},
    {"origin": "file://"},
    {"origin": ""},
    {"origin": "http://localhost@evil.example"},
    {"origin": "http://127.0.0.1.evil.example"},
    {"origin": "chrome-extension://localhost"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
]
OWN_PAGES = [
    {},
    {"origin": "http://127.0.0.1:{port}", "sec-fetch-site": "same-origin"},
    {"origin": "http://localhost:3000", "sec-fetch-site": "cross-site"},
    {"origin": "http://[::1]:{port}"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "same-origin"},
]


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As it is on the first try: no keys, on loopback."""
    with running_service(tmp_path_factory.mktemp("open")) as service:
        yield service


def sent(service: Service, headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.replace(PORT, str(service.port)).encode() for name, value in headers.items()}


@pytest.mark.parametrize("headers", [*[{"host": host} for host in FOREIGN], *PAGES], ids=str)
def test_every_endpoint_refuses_another_site(open_service: Service, headers: dict[str, str]) -> None:
    """Each operation of the OpenAPI document, the documentation and what does not exist; nothing has changed then."""
    before = open_service.client.get("/rollout").json()
    paths = [*OPERATIONS, ("get", "/docs"), ("get", "/openapi.json"), ("get", "/nothing"), ("options", "/rollout")]
    for method, path in paths:
        made = request(method, path)
        assert made is not None
        body = BODIES.get((method, path), [None])[0]
        answer = send(open_service.client, method, made[0], sent(open_service, headers), body)
        if path in EXEMPT:
            assert answer.status_code == 200
        else:
            problem(answer, 403, "forbidden_host")
    assert open_service.client.get("/rollout").json() == before


@pytest.mark.parametrize("host", OURS)
@pytest.mark.parametrize("page", OWN_PAGES, ids=str)
def test_own_names_and_pages_are_let_in(open_service: Service, host: str, page: dict[str, str]) -> None:
    """Every name of loopback with any port, as curl, a port mapping of Docker or the service's own pages use it."""
    headers = sent(open_service, {"host": host, **page})
    assert send(open_service.client, "get", "/rollout", headers).status_code == 200
    program = open_service.client.post(
        "/programs", json=BODIES["post", "/programs"][0] | {"id": None, "session_id": None}
    )
    path = f"/programs/{program.json()['id']}/execute"
    assert send(open_service.client, "post", path, headers, {"inputs": {"text": "a"}}).status_code == 200


def test_a_page_cannot_roll_back(open_service: Service) -> None:
    """By a form, which a browser sends without asking first: the rollout is as it was, and so is its history."""
    assert open_service.client.patch("/rollout", json={"canary_percent": 40}).status_code == 200
    before = open_service.client.get("/rollout/history").json()
    for page in PAGES:
        headers = {**page, "content-type": "text/plain"}
        answer = open_service.client.post("/rollout/rollback", content=b"{}", headers=sent(open_service, headers))
        problem(answer, 403, "forbidden_host")
    assert open_service.client.get("/rollout/history").json() == before
    assert open_service.client.get("/rollout").json()["canary_percent"] == 40


def test_a_refused_execute_has_its_headers(open_service: Service) -> None:
    """As every answer of an execution does."""
    answer = open_service.execute("nothing", {"host": "evil.example"})
    problem(answer, 403, "forbidden_host")
    assert {"x-pool-version", "x-execution-id", "server-timing"} <= set(answer.headers)


@pytest.mark.parametrize("names", ["api.example", "other.example, API.example ,10.0.0.7,::2"])
def test_allowed_hosts_hold_with_keys_too(tmp_path: Path, names: str) -> None:
    """The names that are listed and those of loopback are let in, others are not, whoever asks."""
    key = new_key()
    keys = KeyFile(keys=(StoredKey(name="a", hash=hash_key(key), scopes=frozenset({Scope.ADMIN})),))
    (tmp_path / "keys.json").write_text(keys.model_dump_json())
    settings = {"API_KEYS_FILE": tmp_path / "keys.json", "ALLOWED_HOSTS": names}
    with running_service(tmp_path, **settings) as service:
        service.client.headers["authorization"] = f"Bearer {key}"
        for host in ("api.example", "API.EXAMPLE:443", "api.example.", "127.0.0.1"):
            assert service.client.get("/rollout", headers={"host": host}).status_code == 200, host
            origin = {"host": host, "origin": "https://api.example", "sec-fetch-site": "cross-site"}
            assert service.client.get("/rollout", headers=origin).status_code == 200
        if "::2" in names:
            for host in ("10.0.0.7:80", "[::2]:80"):
                assert service.client.get("/rollout", headers={"host": host}).status_code == 200
        for host in ("evil.example", "not.api.example", "example"):
            problem(service.client.get("/rollout", headers={"host": host}), 403, "forbidden_host")
        problem(service.client.get("/rollout", headers={"origin": "https://evil.example"}), 403, "forbidden_host")


def test_a_service_with_keys_looks_at_no_host_unless_told(tmp_path: Path) -> None:
    """A page has no key; and the service may have any name behind a proxy."""
    key = new_key()
    keys = KeyFile(keys=(StoredKey(name="a", hash=hash_key(key), scopes=frozenset({Scope.ADMIN})),))
    (tmp_path / "keys.json").write_text(keys.model_dump_json())
    with running_service(tmp_path, API_KEYS_FILE=tmp_path / "keys.json") as service:
        headers = {"host": "any.example", "authorization": f"Bearer {key}"}
        assert service.client.get("/rollout", headers=headers).status_code == 200
