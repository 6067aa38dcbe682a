"""A change of a shared LM is tried before it is in force, and can be taken back with its key."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.lm.conftest import EVERYONES_KEY, SMALL, create, field, on
from tests.lm.endpoint import Endpoint
from tests.service.test_errors import problem
from tests.support.service import POOLSHIFT, Service, running_service

EVERYONES = f"everyone {EVERYONES_KEY}"
WRONG_KEY = "sk-wrong-9876543210"


def settings(endpoint: Endpoint) -> dict[str, Any]:
    base = endpoint.base("answers", "everyone")
    return {"LM_MODEL": "openai/test", "LM_API_BASE": base, "LM_API_KEY": EVERYONES_KEY, **SMALL}


@pytest.fixture(scope="module")
def service(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("lm-restored"), **settings(endpoint)) as service:
        yield service


@pytest.fixture
def topic(service: Service) -> Iterator[str]:
    """A program on everyone's LM, which is the environment's again after the test."""
    yield create(service, [field("text")], [field("topic")])
    for query in ("", "?pool_version=v2"):
        assert service.client.delete(f"/lm{query}").status_code == 204


def answer(service: Service, program: str, version: str = "v1") -> str:
    found = service.execute(program, on(version), inputs={"text": "x"})
    return str(found.json()["outputs"]["topic"] if found.status_code == 200 else found.json()["code"])


def lm(endpoint: Endpoint, name: str, behaviour: str = "answers") -> dict[str, str]:
    return {"model": "openai/test", "api_base": endpoint.base(behaviour, name), "api_key": f"sk-{name}"}


@pytest.mark.parametrize("query", ["", "?pool_version=v2"])
def test_a_wrong_lm_is_taken_back_with_the_key_of_the_one_before(
    service: Service, topic: str, endpoint: Endpoint, query: str
) -> None:
    """Also if the wrong one was set twice; a second restore puts the wrong one back, and no answer has a key."""
    client = service.client
    assert client.put(f"/lm{query}", json=lm(endpoint, "right")).status_code == 200
    assert answer(service, topic, "v2") == "right sk-right"
    for _ in range(2):
        assert client.put(f"/lm{query}", json=lm(endpoint, "wrong", "refuses")).status_code == 200
    assert answer(service, topic, "v2") == "lm_error"
    restored = client.post(f"/lm/restore{query}")
    assert (restored.status_code, restored.json()) == (200, client.get(f"/lm{query}").json())
    assert (restored.json()["has_api_key"], "sk-right" in restored.text) == (True, False)
    assert answer(service, topic, "v2") == "right sk-right"
    assert client.post(f"/lm/restore{query}").json()["api_base"] == endpoint.base("refuses", "wrong")
    assert client.post(f"/lm/restore{query}").json()["api_base"] == endpoint.base("answers", "right")


def test_everyone_has_the_environments_lm_again(service: Service, topic: str, endpoint: Endpoint) -> None:
    """By DELETE, which can be taken back, too, and by a restore of what the first change replaced."""
    client = service.client
    assert client.put("/lm", json=lm(endpoint, "other")).status_code == 200
    assert client.post("/lm/restore").json()["updated_by"] is None
    assert answer(service, topic) == EVERYONES
    assert client.post("/lm/restore").status_code == 200
    assert client.delete("/lm").status_code == 204
    assert client.get("/lm").json()["updated_by"] is None
    assert answer(service, topic) == EVERYONES
    assert client.post("/lm/restore").json()["has_api_key"]
    assert answer(service, topic) == "other sk-other"


def test_without_a_change_nothing_can_be_restored(service: Service) -> None:
    detail = problem(service.client.post("/lm/restore?pool_version=v1"), 404, "not_found")["detail"]
    assert "v1" in detail


def test_the_former_one_outlives_a_restart_and_a_new_secret_key(
    start_service: StartService, endpoint: Endpoint, tmp_path: Path
) -> None:
    """The database has the key encrypted, and again with the newest of the secret keys."""
    secret = tmp_path / "secret.keys"
    secret.write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
    secret.chmod(0o600)
    service = start_service(**settings(endpoint), SECRET_KEY_FILE=secret)
    program = create(service, [field("text")], [field("topic")])
    for name in ("right", "wrong"):
        assert service.client.put("/lm", json=lm(endpoint, name)).status_code == 200
    service.stop()
    database = (service.directory / "poolshift.db").read_bytes()
    assert b"sk-right" not in database
    secret.write_text("YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=\n" + secret.read_text())
    service.start()
    service.stop()
    secret.write_text(secret.read_text().splitlines()[0])
    service.start()
    assert service.client.post("/lm/restore").status_code == 200
    assert answer(service, program) == "right sk-right"


@pytest.mark.parametrize("path", ["/lm?check=true", "/lm?check=true&pool_version=v2", "/sessions/s/lm?check=true"])
def test_an_lm_is_tried_before_it_is_in_force(service: Service, topic: str, endpoint: Endpoint, path: str) -> None:
    """One that refuses is refused with what it says, without its key, and changes nothing; one that answers is set."""
    wrong = {**lm(endpoint, "wrong", "refuses"), "api_key": WRONG_KEY}
    before = service.client.get(path).json()
    refused = problem(service.client.put(path, json=wrong), 502, "lm_error")
    assert "Auth" in refused["detail"]
    assert WRONG_KEY not in str(refused)
    assert service.client.get(path).json() == before
    assert answer(service, topic, "v2") == EVERYONES
    asked = len(endpoint.requests["tried"])
    assert service.client.put(path, json=lm(endpoint, "tried")).status_code == 200
    assert len(endpoint.requests["tried"]) == asked + 1
    assert service.metric("poolshift_requests_total", operation="synthetic", outcome="lm_error") > 0
    assert service.client.put(path, json={"model": "none"}).status_code == 200


def test_the_command_tries_it_unless_told_otherwise(
    service: Service, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-of-the-file")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*POOLSHIFT, "lm", *arguments, "--url", service.url]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def set_to(behaviour: str, *more: str) -> subprocess.CompletedProcess[str]:
        base = endpoint.base(behaviour, "by-command")
        return run("set", "openai/test", "--api-base", base, "--lm-key-file", str(key), *more)

    refused = set_to("refuses")
    assert refused.returncode != 0
    assert "lm_error" in refused.stderr
    assert "\\n" not in refused.stderr, "a line of its own words"
    assert f"the key is that of {key}, --api-base URL its address" in refused.stderr
    keyless = run("set", "openai/test", "--api-base", endpoint.base("refuses", "by-command"))
    assert "--lm-key-file FILE gives its key" in keyless.stderr
    assert answer(service, topic) == EVERYONES
    assert set_to("answers").returncode == 0
    assert answer(service, topic) == "by-command sk-of-the-file"
    assert set_to("refuses", "--no-check").returncode == 0
    assert answer(service, topic) == "lm_error"
    assert run("restore").returncode == 0
    assert answer(service, topic) == "by-command sk-of-the-file"
    assert "the environment of the service" in run("unset").stdout
    assert answer(service, topic) == EVERYONES


def test_a_server_of_ones_own_needs_no_key(service: Service, topic: str, endpoint: Endpoint) -> None:
    """vLLM and Ollama ask for none; a trial does without one, too."""
    without = {"model": "openai/test", "api_base": endpoint.base("answers", "keyless")}
    assert service.client.put("/lm?check=true", json=without).status_code == 200
    assert answer(service, topic).startswith("keyless ")
