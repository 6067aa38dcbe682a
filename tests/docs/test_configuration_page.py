"""docs/configuration.md: every setting with its default, and what a worker sees."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from config.settings import InvalidSettings, Settings, load_settings
from config.worker_environment import worker_environment
from tests.conftest import StartService
from tests.support.pages import codes, page, section, table
from tests.support.service import Service
from tests.support.waiting import wait_until

PAGE = page("configuration.md")
ROWS = {
    codes(row["setting"])[0]: row
    for heading in ("## The pools", "## Settings")
    for row in table(section(PAGE, heading), "setting")
}
WORKER = section(PAGE, "## What a worker sees of the environment")
CORES = "2 × cores"


@pytest.fixture(autouse=True)
def fresh_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No setting but the test's own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_there() -> None:
    """In the order of the code, those of a pool first, so that nobody has to search."""
    assert list(ROWS) == [name.upper() for name in Settings.model_fields]
    assert all(row["unit"] and row["meaning"] for row in ROWS.values())


@pytest.mark.parametrize("name", ROWS)
def test_a_default_is_as_the_page_says(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An operator who sets nothing gets the page's default: Settings makes the same value of the page's word."""
    said = ROWS[name]["default"]
    field = Settings.model_fields[name.lower()]
    default = getattr(load_settings(), name.lower())
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if said == "unset":
        assert default is None
    elif said == "none":
        assert default == ""
    elif said == CORES:
        assert field.default is PydanticUndefined
        assert default == 2 * len(os.sched_getaffinity(0))
    else:
        (value,) = codes(said)
        monkeypatch.setenv(name, value)
        again = getattr(load_settings(), name.lower())
        assert (again.get_secret_value() if isinstance(again, SecretStr) else again) == default


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row["unit"].startswith("`")])
def test_a_choice_has_the_values_that_the_page_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """All of these, and no other."""
    for value in codes(ROWS[name]["unit"]):
        monkeypatch.setenv(name, value)
        assert getattr(load_settings(), name.lower()) == value
    monkeypatch.setenv(name, "something-else")
    with pytest.raises(InvalidSettings, match=name):
        load_settings()


def test_the_exit_code_of_a_wrong_value(start_service: StartService, tmp_path: Any) -> None:
    """2, and one line that names it."""
    service = Service(tmp_path, PORT=1, QUEUE_LIMIT="many")
    try:
        service.start(wait=False)
        assert service.wait_for_end() == 2
        assert service.log().startswith("poolshift: QUEUE_LIMIT='many': ")
        assert service.log().count("\n") == 1
    finally:
        service.close()


def test_a_queue_of_zero(start_service: StartService, version: str, tmp_path: Path) -> None:
    """Either version takes what can begin at once, and sheds what would have to wait."""
    service = start_service(POOL_VERSION=version, QUEUE_LIMIT=0, V1_POOL_SIZE=1, V2_POOL_SIZE=1, DRAIN_TIMEOUT_S=0.1)
    program = service.create("echo", {"nonce": "string"})
    holder = service.create("hold", {"directory": "string", "name": "string"})
    assert service.execute(program, inputs={"nonce": "a"}).status_code == 200
    held = {"directory": str(tmp_path), "name": "here"}
    assert service.execute(holder, {"prefer": "respond-async"}, inputs=held).status_code == 202
    wait_until(lambda: any(tmp_path.glob("here.*")), "the worker is busy")
    assert service.execute(program, inputs={"nonce": "a"}).json()["code"] == "pool_overloaded"


def test_what_a_worker_does_not_see() -> None:
    """Every example of the page is withheld, and passed on by name; what no row withholds is there."""
    examples = [name for row in table(WORKER, "withheld") for name in codes(row["for example"])]
    assert examples
    environment = dict.fromkeys([*examples, "PATH", "PYTHONPATH", "LANG", "HTTPS_PROXY", "TOKENIZERS_PARALLELISM"], "x")
    assert not worker_environment(environment, []).keys() & set(examples)
    kept = worker_environment(environment, examples)
    assert environment.items() <= kept.items()


def test_what_a_worker_is_set() -> None:
    """Whatever it was before."""
    for row in table(WORKER, "set"):
        (name,), (value,) = codes(row["set"]), codes(row["to"])
        assert worker_environment({name: "other"}, [])[name] == value
    assert len(worker_environment({}, [])) == len(table(WORKER, "set"))


def test_the_passed_on_names_may_have_spaces_between_them(start_service: StartService) -> None:
    """As in every list that people write."""
    (example,) = re.findall(r"`WORKER_ENV=([^`]+)`", PAGE)
    names = example.split(",")
    service = start_service(WORKER_ENV=", ".join(names), **dict.fromkeys(names, "wanted"))
    program = service.create("environment", {}, outputs=[{"name": "environment", "type": "object"}])
    environment = service.execute(program).json()["outputs"]["environment"]
    assert {name: environment[name] for name in names} == dict.fromkeys(names, "wanted")
