"""The rollout's sources: a mounted file, an OpenFeature provider; and what a rollback can do to running calls."""

import concurrent.futures
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.api_keys import hash_key, new_key
from routing.rollout.file import InvalidRolloutFile, parse
from tests.conftest import StartService
from tests.observability.conftest import log_lines
from tests.service.test_errors import problem
from tests.service.test_refused_starts import refused
from tests.support.replicas import have_said, said_once
from tests.support.service import POOLSHIFT, ROOT, Service
from tests.support.waiting import wait_until
from tests.support.yaml_like import DOCUMENTS


def percent(service: Service) -> float:
    """The percentage in force."""
    value: float = service.client.get("/rollout").json()["canary_percent"]
    return value


def shown_percents(service: Service) -> set[float]:
    """The percentage by the metrics of each replica."""
    return set(service.samples("poolshift_canary_percent"))


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

    write(path, "canary_percent: 20\nshadow_percent: 15\n")
    wait_until(lambda: service.client.get("/rollout").json()["shadow_percent"] == 15, "the file has a shadow")

    for broken in (
        "canary_percent: [",
        "canary_percent: 20\nshadow_percent: 101\n",
        "{}\n",
        "canary_percent: 1\ncanary_percent: 99\n",
    ):
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


def test_a_provider_in_the_current_folder(start_service: StartService, tmp_path: Path) -> None:
    """The operator's module is found, with what it imports; a module of the service's own name shadows nothing."""
    (tmp_path / "flags.py").write_text(PROVIDER)
    (tmp_path / "config.py").write_text("raise RuntimeError\n")
    (tmp_path / "percentages.py").write_text("PERCENT = 7.5\n")
    service = start_service(
        command=["env", "-C", str(tmp_path), *POOLSHIFT],
        PYTHONPATH="",
        PROGRAM_MODULES="examples",
        ROLLOUT_FLAG="canary-percent",
        ROLLOUT_FLAG_PROVIDER="flags:Provider",
    )
    wait_until(lambda: percent(service) == 7.5, "the flag's value is in force")


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("Unreachable", "GENERAL: no flags\ntoday"),
        ("raises", "ROLLOUT_FLAG_PROVIDER=flags:raises raised RuntimeError: no server here"),
    ],
)
def test_a_provider_that_raises(start_service: StartService, tmp_path: Path, factory: str, reason: str) -> None:
    """One line of each replica says so, however often it raises; the service serves, and the last good value stays."""
    (tmp_path / "flags.py").write_text(PROVIDER)
    (tmp_path / "percentages.py").write_text("PERCENT = 7.5\n")
    settings = {"ROLLOUT_FLAG": "canary-percent", "ROLLOUT_FLAG_PROVIDER": f"flags:{factory}"}
    service = start_service(PYTHONPATH=f"{ROOT}:{tmp_path}", LOG_FORMAT="json", CANARY_PERCENT=3, **settings)
    wait_until(lambda: (tmp_path / "raised").exists() and len((tmp_path / "raised").read_text()) > 1, "it raises again")
    lines = said_once(service.log(), "rollout flag ignored; the last good value stays")
    assert all(json.loads(line)["reason"] == reason for line in lines)
    assert "Traceback" not in service.log()
    assert percent(service) == 3


@pytest.mark.parametrize(
    ("provider", "fault"),
    [
        ("no_such:Provider", "ModuleNotFoundError: No module named 'no_such'"),
        ("flags:nothing", "AttributeError: module 'flags' has no attribute 'nothing'"),
        ("unset:Provider", "KeyError: 'FLAG_SERVER'"),
    ],
)
def test_a_provider_that_cannot_be_imported_ends_the_start(tmp_path: Path, provider: str, fault: str) -> None:
    """In one line, whatever it raises."""
    directory = tmp_path / "service"
    directory.mkdir()
    (directory / "flags.py").write_text("")
    (directory / "unset.py").write_text("import os\nos.environ['FLAG_SERVER']\n")
    exit_code, log = refused(directory, ROLLOUT_FLAG="canary-percent", ROLLOUT_FLAG_PROVIDER=provider)
    assert exit_code == 3
    assert all(f"ROLLOUT_FLAG_PROVIDER={provider}: {fault}" in line for line in said_once(log, "ROLLOUT_FLAG"))
    assert "Traceback" not in log


PROVIDER = """
import pathlib
import percentages
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider import AbstractProvider, Metadata

def note():
    with (pathlib.Path(__file__).parent / "raised").open("a") as file:
        file.write("x")

class Provider(AbstractProvider):
    def get_metadata(self):
        return Metadata("of the operator")

    def resolve_float_details(self, flag_key, default_value, evaluation_context=None):
        return FlagResolutionDetails(value=percentages.PERCENT)

    resolve_boolean_details = resolve_integer_details = resolve_object_details = resolve_string_details = None

class Unreachable(Provider):
    def resolve_float_details(self, flag_key, default_value, evaluation_context=None):
        note()
        raise RuntimeError("no flags\\ntoday")

def raises():
    note()
    raise RuntimeError("no server\\nhere")
"""


def test_an_environment_that_does_not_count_says_so(start_service: StartService) -> None:
    """After a rollback CANARY_PERCENT stays without effect: a line tells why, and a command that applies it."""
    service = start_service(CANARY_PERCENT=10, LOG_FORMAT="json")
    told = "CANARY_PERCENT is not applied: the rollout was changed since the start that first had this value"
    assert log_lines(service, event=told) == []
    service.client.post("/rollout/rollback")
    assert service.stop() == 0
    service.start()
    assert percent(service) == 0
    wait_until(lambda: have_said(service.log(), told), "each replica says it once")
    lines = log_lines(service, event=told)
    expected = {"CANARY_PERCENT": 10, "canary_percent": 0, "revision": 2, "source": "rollback", "by": "anonymous"}
    assert all(expected.items() <= line.items() for line in lines)

    command = lines[0]["to_apply"].split()
    assert command[0] == "poolshift"
    subprocess.run([*POOLSHIFT, *command[1:], "--url", service.url], check=True, capture_output=True, timeout=30)
    assert service.stop() == 0
    service.start()
    assert percent(service) == 10
    assert have_said(service.log(), told)


def test_a_log_beside_the_file_does_not_feed_its_watcher(start_service: StartService, tmp_path: Path) -> None:
    """Even at the level `debug` the log does not grow by itself, and the file is followed all the same."""
    service = start_service(LOG_LEVEL="debug", ROLLOUT_FILE="rollout.yaml", ROLLOUT_PLAN_FILE="plan.yaml")
    assert service.log_path.parent == service.directory
    for value in (5, 6):
        write(service.directory / "rollout.yaml", f"canary_percent: {value}\n")
        wait_until(lambda value=value: percent(service) == value, "the file's value")  # type: ignore[misc]
    assert "watchfiles" not in service.log()


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


def test_without_v1_there_is_no_split(start_service: StartService) -> None:
    """Everything that shows the percentage says 100, nothing can change it, and nobody is told of V1 workers."""
    service = start_service(POOLS="v2", CANARY_PERCENT=5, LOG_FORMAT="json")
    assert percent(service) == 100
    assert service.client.get("/rollout/status").json()["canary_percent"] == 100
    assert shown_percents(service) == {100}
    for body in ({"canary_percent": 50}, {"canary_percent": 100}, {"reason": "none"}):
        refused = problem(service.client.patch("/rollout", json=body), 409, "rollback_impossible")
        assert refused["detail"] == "this service runs without V1 (POOLS=v2): all traffic goes to V2"
    problem(service.client.post("/rollout/start"), 409, "rollback_impossible")
    command = [*POOLSHIFT, "rollout", "set", "50", "--url", service.url]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "this service runs without V1" in done.stderr
    assert (percent(service), shown_percents(service)) == (100, {100})

    assert [pool["pool_version"] for pool in service.client.get("/pools").json()] == ["v2"]
    for name in ("pool_workers", "worker_resident_memory_bytes", "worker_open_fds", "worker_starts_total"):
        assert service.metric(f"poolshift_{name}", pool_version="v1") == 0
        assert service.metric(f"poolshift_{name}", pool_version="v2") > 0
    for started in map(json.loads, said_once(service.log(), '"event": "started"')):
        assert (started["canary_percent"], started["v1_workers"], started["v2_workers"]) == (100, 0, 2)
    for told in said_once(service.log(), "CANARY_PERCENT has no effect: this service runs without V1 (POOLS=v2)"):
        assert json.loads(told)["CANARY_PERCENT"] == 5


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
