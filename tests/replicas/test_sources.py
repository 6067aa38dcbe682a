"""The rollout's sources: a mounted file, an OpenFeature provider; and what a rollback can do to running calls."""

import concurrent.futures
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.api_keys import hash_key, new_key
from routing.rollout.file import InvalidRolloutFile, parse
from tests.conftest import StartService
from tests.service.test_errors import problem
from tests.support.service import Service
from tests.support.waiting import wait_until
from tests.support.yaml_like import DOCUMENTS


def percent(service: Service) -> float:
    """The percentage in force."""
    value: float = service.client.get("/rollout").json()["canary_percent"]
    return value


def write(path: Path, content: str | bytes) -> None:
    """Replaces a file whole, as a careful writer does."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


class Files:
    """A service that follows a rollout file and a key file, and what they say last."""

    def __init__(self, directory: Path) -> None:
        self.rollout = directory / "rollout.yaml"
        self.keys = directory / "keys.yaml"
        self.next_percent = 1
        self.last_key = self.write("first")
        self.service = Service(directory, ROLLOUT_FILE=self.rollout, API_KEYS_FILE=self.keys)

    def write(self, name: str) -> str:
        """Another percentage, and a key that alone is valid; the key."""
        key = new_key()
        entry = {"name": name, "hash": hash_key(key), "scopes": ["admin"]}
        write(self.keys, json.dumps({"keys": [entry]}) + "\n")
        write(self.rollout, f"canary_percent: {self.next_percent}\n")
        return key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    files = Files(tmp_path_factory.mktemp("files"))
    try:
        files.service.start()
        yield files
    finally:
        files.service.close()


def test_a_file_moves_traffic(start_service: StartService, tmp_path: Path) -> None:
    """Written in place, moved over, in JSON: it comes into force, and a broken one keeps the last good value."""
    path = tmp_path / "rollout.yaml"
    path.write_text("canary_percent: 5\n")
    service = start_service(ROLLOUT_FILE=path)
    wait_until(lambda: percent(service) == 5, "what the file says at the start is in force")
    path.write_text("canary_percent: 12.5\nreason: in place\n")
    wait_until(lambda: percent(service) == 12.5, "a file written in place")
    write(path, json.dumps({"canary_percent": 20, "reason": "moved over"}))
    wait_until(lambda: percent(service) == 20, "a file moved over, without a line break at its end")
    rollout = service.client.get("/rollout").json()
    assert (rollout["source"], rollout["updated_by"], rollout["reason"]) == ("file", "rollout.yaml", "moved over")

    for broken in ("canary_percent: [", "canary_percent: 101\n", "{}\n", "canary_percent: 1\ncanary_percent: 99\n"):
        ignored = service.log().count("rollout file ignored")
        write(path, broken)
        wait_until(lambda count=ignored: service.log().count("rollout file ignored") > count, "it is said")  # type: ignore[misc]
        assert percent(service) == 20
    path.unlink()
    wait_until(lambda: "it cannot be read" in service.log(), "a missing file is said")
    assert percent(service) == 20
    write(path, "canary_percent: 30\n")
    wait_until(lambda: percent(service) == 30, "it is followed again")


def test_a_symlink_swap_counts(start_service: StartService, tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: the file is a link into a folder that is itself a link, which is swapped."""
    mount = tmp_path / "mount"
    for number, value in enumerate(("1", "2")):
        (mount / f"..{number}").mkdir(parents=True)
        (mount / f"..{number}" / "rollout.yaml").write_text(f"canary_percent: {value}\n")
    (mount / "..data").symlink_to("..0")
    (mount / "rollout.yaml").symlink_to("..data/rollout.yaml")
    service = start_service(ROLLOUT_FILE=mount / "rollout.yaml")
    wait_until(lambda: percent(service) == 1, "the first version")
    (mount / "..new").symlink_to("..1")
    (mount / "..new").rename(mount / "..data")
    wait_until(lambda: percent(service) == 2, "the second version")


def test_the_newest_change_wins(start_service: StartService, tmp_path: Path) -> None:
    """A file that says what it said before undoes no change of the API, not even at a restart."""
    path = tmp_path / "rollout.yaml"
    path.write_text("canary_percent: 5\n")
    service = start_service(ROLLOUT_FILE=path)
    wait_until(lambda: percent(service) == 5, "the file's value")
    service.client.post("/rollout/rollback")
    path.write_text("canary_percent: 5\nreason: touched\n")
    assert service.stop() == 0
    service.start()
    assert percent(service) == 0
    path.write_text("canary_percent: 6\n")
    wait_until(lambda: percent(service) == 6, "a new value")


@pytest.mark.parametrize(
    "odd",
    [
        b"canary_percent: !!bool foo\n",
        b"canary_percent: 1:30\n",
        b"canary_percent: 010\n",
        b"canary_percent: 0x10\n",
        b"canary_percent: 5\nreason: 2026-02-30\n",
        b"[" * 5000 + b"\n",
        b"canary_percent: &a [*a]\n",
        b"\n" * (2 * 1024 * 1024),
        None,
    ],
    ids=lambda odd: repr(odd and odd[:30]),
)
def test_no_file_ends_the_following(files: Files, odd: bytes | None) -> None:
    """A content that makes YAML stumble, too large a file, a pipe (None): it is said, and the next one is obeyed."""
    for path, ignored in ((files.rollout, "rollout file ignored"), (files.keys, "API keys file ignored")):
        before = files.service.log().count(ignored)
        if odd is None:
            os.mkfifo(path.with_suffix(".pipe"))
            path.with_suffix(".pipe").replace(path)
        else:
            write(path, odd)
        wait_until(lambda ignored=ignored, before=before: files.service.log().count(ignored) > before, "it is said")  # type: ignore[misc]
    files.next_percent += 1
    name = f"operator-{files.next_percent}"
    key = files.write(name)
    headers = {"X-API-Key": key}
    wait_until(lambda: files.service.client.get("/rollout", headers=headers).status_code == 200, "the new key is valid")
    wait_until(
        lambda: files.service.client.get("/rollout", headers=headers).json()["canary_percent"] == files.next_percent,
        "the new percentage is in force",
    )
    assert files.service.client.get("/rollout", headers={"X-API-Key": files.last_key}).status_code == 401
    files.last_key = key
    assert "no longer followed" not in files.service.log()


@given(st.binary(max_size=200))
def test_a_fuzzed_file_moves_no_traffic(content: bytes) -> None:
    """Random bytes are no rollout."""
    with pytest.raises(InvalidRolloutFile):
        parse(content, "file")


@given(DOCUMENTS)
@example(b"canary_percent: !!bool foo")
def test_no_bytes_make_another_error(content: bytes) -> None:
    """A change, or InvalidRolloutFile: anything else would end the following."""
    with contextlib.suppress(InvalidRolloutFile):
        assert 0 <= parse(content, "file").canary_basis_points <= 10_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    )
)
def test_other_documents_move_no_traffic(document: Any) -> None:
    """Neither is any other JSON, nor a percentage of another type or out of range."""
    for candidate in (document, {"canary_percent": document, "extra": 1}):
        with pytest.raises(InvalidRolloutFile):
            parse(json.dumps(candidate).encode(), "file")
    is_percent = type(document) in (int, float) and 0 <= document <= 100 and round(document * 100, 9) % 1 == 0
    if not is_percent:
        with pytest.raises(InvalidRolloutFile):
            parse(json.dumps({"canary_percent": document}).encode(), "file")


def test_an_openfeature_provider_moves_traffic(start_service: StartService, tmp_path: Path) -> None:
    """flagd's provider with its file resolver: a change of the flag is a change of the rollout."""

    def flags(variant: str) -> str:
        flag = {"state": "ENABLED", "variants": {"low": 3.0, "high": 42.5}, "defaultVariant": variant}
        return json.dumps({"flags": {"canary-percent": flag}})

    path = tmp_path / "flags.json"
    path.write_text(flags("low"))
    service = start_service(ROLLOUT_FLAG="canary-percent", FLAGD_RESOLVER="file", FLAGD_OFFLINE_FLAG_SOURCE_PATH=path)
    wait_until(lambda: percent(service) == 3, "the flag's value is in force")
    write(path, flags("high"))
    wait_until(lambda: percent(service) == 42.5, "its change too")
    rollout = service.client.get("/rollout").json()
    assert (rollout["source"], rollout["updated_by"]) == ("flag", "canary-percent")


def test_a_rollback_that_replays(start_service: StartService, tmp_path: Path) -> None:
    """Idempotent calls that run on V2 are cancelled and run on V1; the others finish on V2."""
    service = start_service(CANARY_PERCENT=100, V2_POOL_SIZE=2)
    fields = {"directory": "string", "name": "string"}
    plain = service.create("hold", fields)
    idempotent = service.create("hold", fields, idempotent=True)
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        calls = [
            callers.submit(service.execute, program, inputs={"directory": str(tmp_path), "name": name})
            for program, name in ((plain, "plain"), (idempotent, "idempotent"))
        ]
        wait_until(lambda: all(any(tmp_path.glob(f"{name}.*")) for name in ("plain", "idempotent")), "both run")
        assert service.pool("v2")["busy"] == 2
        assert service.client.post("/rollout/rollback", json={"in_flight": "replay"}).status_code == 200
        wait_until(lambda: len(list(tmp_path.glob("idempotent.*"))) == 2, "one of them runs again")
        assert service.pool("v1")["busy"] == 1
        (tmp_path / "go").touch()
        versions = [call.result().headers["x-pool-version"] for call in calls]
    assert versions == ["v2", "v1"]
    wait_until(lambda: service.pool("v2")["totals"]["worker_exits"] == {"cancelled": 1}, "one worker was killed")


def test_without_v1_there_is_no_way_back(start_service: StartService) -> None:
    """POOLS=v2 runs V2 alone, and says clearly that a rollback is not possible."""
    service = start_service(POOLS="v2")
    program = service.create("echo", {"nonce": "string"})
    assert service.execute(program, inputs={"nonce": "a"}).headers["x-pool-version"] == "v2"
    problem(service.client.post("/rollout/rollback"), 409, "rollback_impossible")
    problem(service.client.get("/pools/v1"), 404, "not_found")
    refused = service.execute(program, {"X-Pool-Version": "v1"}, inputs={"nonce": "a"})
    problem(refused, 422, "invalid_request")
    assert service.client.get("/readyz").json()["pools"] == {"v2": True}


def test_keys_are_reread(start_service: StartService, tmp_path: Path) -> None:
    """An added key counts without a restart, a revoked one no longer; a broken file keeps the last good."""
    path = tmp_path / "keys.json"
    keys = {name: new_key() for name in ("alice", "bob")}

    def entry(name: str) -> dict[str, object]:
        return {"name": name, "hash": hash_key(keys[name]), "scopes": ["admin"]}

    def status(name: str) -> int:
        return service.client.get("/rollout", headers={"X-API-Key": keys[name]}).status_code

    path.write_text(json.dumps({"keys": [entry("alice")]}))
    service = start_service(API_KEYS_FILE=path)
    assert (status("alice"), status("bob")) == (200, 401)
    write(path, json.dumps({"keys": [entry("bob")]}))
    wait_until(lambda: (status("alice"), status("bob")) == (401, 200), "the other key is valid")
    write(path, "{")
    wait_until(lambda: "API keys file ignored" in service.log(), "a broken file is said")
    assert status("bob") == 200
    headers = {"X-API-Key": keys["bob"]}
    assert service.client.patch("/rollout", json={"canary_percent": 1}, headers=headers).status_code == 200
    assert service.client.get("/rollout", headers=headers).json()["updated_by"] == "bob"
    assert not any(key in service.log() for key in keys.values())
