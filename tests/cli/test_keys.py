"""`poolshift keys`: the file, and that a service takes what is in it."""

import concurrent.futures
import json
import os
import pty
import stat
import subprocess
from pathlib import Path

import pytest

from config.api_keys import Scope, hash_key, read_key_file
from tests.cli.conftest import SCRIPT, Poolshift, lines
from tests.conftest import StartService
from tests.support.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path for the keys; there is no file yet."""
    return tmp_path / "keys.yaml"


def test_a_service_takes_the_key(poolshift: Poolshift, start_service: StartService, path: Path) -> None:
    """The service lets in the key that `keys create` prints, as far as its scopes go, and the history has its name."""
    admin = poolshift.succeeds("keys", "create", "--name", "alice", "--scope", "admin", "--file", path).strip()
    execute = poolshift.json("keys", "create", "--name", "app", "--scope", "execute", API_KEYS_FILE=str(path))["key"]
    url = start_service(API_KEYS_FILE=path).url
    alice = poolshift.at(url, POOLSHIFT_API_KEY=admin)
    assert alice.json("rollout", "set", 5)["updated_by"] == "alice"

    app = poolshift.at(url, POOLSHIFT_API_KEY=execute)
    assert app.json("rollout", "get")["canary_percent"] == 5
    assert app.fails(5, "rollout", "set", 6).startswith("forbidden: ")
    assert app.fails(5, "pools").startswith("forbidden: ")
    assert poolshift.at(url).fails(5, "rollout", "get").startswith("unauthorized: ")
    wrong = poolshift.at(url, POOLSHIFT_API_KEY=execute + "x").fails(5, "rollout", "get")
    assert wrong.startswith("unauthorized: ")
    assert execute not in wrong

    key_file = path.with_name("key")
    key_file.write_text(f"{admin}\n")
    assert app.json("rollout", "set", 6, "--api-key-file", key_file)["updated_by"] == "alice"
    assert alice.json("rollout", "get")["canary_percent"] == 6


def test_a_key_is_shown_once(poolshift: Poolshift, path: Path) -> None:
    """Only its hash is kept, and neither is ever printed again."""
    created = poolshift("keys", "create", "--name", "a b", "--scope", "execute", "--scope", "admin", "--file", path)
    assert created.returncode == 0
    key = created.stdout.strip()
    assert key.startswith("psk_")
    assert key not in created.stderr
    assert key not in path.read_text()
    (stored,) = read_key_file(path).keys
    assert (stored.name, stored.hash, sorted(stored.scopes)) == ("a b", hash_key(key), ["admin", "execute"])

    listed = poolshift.succeeds("keys", "list", "--file", path)
    assert lines(listed) == [["NAME", "SCOPES"], ["a", "b", "admin,", "execute"]]
    assert poolshift.json("keys", "list", "--file", path) == [{"name": "a b", "scopes": ["admin", "execute"]}]
    told = listed + json.dumps(poolshift.json("keys", "list", "--file", path))
    told += poolshift.succeeds("keys", "revoke", "a b", "--last-admin", "--file", path)
    assert key not in told
    assert stored.hash not in told


def test_no_two_keys_are_the_same(poolshift: Poolshift) -> None:
    """They are random; without a file the entry for one is shown, to be put where it belongs."""
    created = [poolshift.json("keys", "create", "--name", "a", "--scope", "execute") for _ in range(2)]
    assert created[0]["key"] != created[1]["key"]
    assert created[0]["entry"] == {"name": "a", "hash": hash_key(created[0]["key"]), "scopes": ["execute"]}
    ended = poolshift("keys", "create", "--name", "a", "--scope", "execute")
    assert hash_key(ended.stdout.strip()) in ended.stderr


def test_a_name_is_taken_until_it_is_revoked(poolshift: Poolshift, path: Path) -> None:
    """Exit code 4, and the file is as it was; a name that is not there is exit code 1."""
    create = ("keys", "create", "--name", "a", "--scope", "execute", "--file", path)
    poolshift.succeeds(*create)
    before = path.read_bytes()
    assert "named 'a' already" in poolshift.fails(4, *create)
    assert "no key is named 'b'" in poolshift.fails(1, "keys", "revoke", "b", "--file", path)
    assert path.read_bytes() == before
    assert poolshift.json("keys", "revoke", "a", "--file", path) == {"revoked": "a"}
    assert read_key_file(path).keys == ()
    poolshift.succeeds(*create)


def test_only_its_owner_reads_the_file(poolshift: Poolshift, path: Path) -> None:
    """Mode 0600, for a new file and for one that was readable by all; nothing is left beside it."""
    for name in ("a", "b"):
        poolshift.succeeds("keys", "create", "--name", name, "--scope", "execute", "--file", path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
    poolshift.succeeds("keys", "revoke", "a", "--file", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write a file of another user's")
def test_the_file_stays_its_owners(poolshift: Poolshift, path: Path) -> None:
    """If root adds a key, the service's user can still read the file."""
    path.touch()
    os.chown(path, 65534, 65534)
    poolshift.succeeds("keys", "create", "--name", "a", "--scope", "execute", "--file", path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_a_link_stays_a_link(poolshift: Poolshift, path: Path) -> None:
    """The file that it points to is changed, in the format that its name says."""
    target = path.with_name("real.json")
    target.write_text('{"keys": []}')
    path.symlink_to(target)
    poolshift.succeeds("keys", "create", "--name", "a", "--scope", "execute", "--file", path)
    assert path.is_symlink()
    assert json.loads(target.read_text())["keys"][0]["name"] == "a"


def test_changes_at_once_are_all_kept(poolshift: Poolshift, path: Path) -> None:
    """Six writers lose nobody's key, and who reads meanwhile never finds half a file."""
    poolshift.succeeds("keys", "create", "--name", "first", "--scope", "admin", "--file", path)
    names = [f"key-{number}" for number in range(6)]
    reads = 0
    with concurrent.futures.ThreadPoolExecutor(len(names)) as writers:
        running = [
            writers.submit(poolshift.succeeds, "keys", "create", "--name", name, "--scope", "execute", "--file", path)
            for name in names
        ]
        while not all(one.done() for one in running):
            assert read_key_file(path).keys[0].name == "first"
            reads += 1
        keys = {one.result().strip() for one in running}
    assert reads > 0
    stored = {key.name: key.hash for key in read_key_file(path).keys[1:]}
    assert sorted(stored) == names
    assert set(stored.values()) == {hash_key(key) for key in keys}


@pytest.mark.parametrize(
    "content",
    [
        "keys: [",
        "keys: 1",
        "keys: !!bool foo",
        "keys: [2026-02-30]",
        "keys:\n- {name: a, hash: psk_secret, scopes: [admin]}",
    ],
)
def test_a_file_that_holds_something_else_is_left_alone(poolshift: Poolshift, path: Path, content: str) -> None:
    """No key is added to what is not understood, and nothing that is in there is shown."""
    path.write_text(content)
    for command in (("create", "--name", "b", "--scope", "admin"), ("list",), ("revoke", "a")):
        complaint = poolshift.fails(2, "keys", *command, "--file", path)
        assert complaint.startswith(f"{path}: ")
        assert "psk_secret" not in complaint
    assert path.read_text() == content


def test_a_file_that_cannot_be(poolshift: Poolshift, tmp_path: Path) -> None:
    """No key is printed that is not kept."""
    path = tmp_path / "no-such-folder" / "keys.yaml"
    complaint = poolshift.fails(2, "keys", "create", "--name", "a", "--scope", "admin", "--file", path)
    assert complaint == f"{path}: No such file or directory"
    assert poolshift.fails(2, "keys", "list", "--file", path) == f"{path}: No such file or directory"


def test_a_key_may_carry_on_for_another(poolshift: Poolshift, path: Path) -> None:
    """The file names its owner, the list shows it, and every scope may be given."""
    scopes = [argument for scope in Scope for argument in ("--scope", scope)]
    created = poolshift.json("keys", "create", "--name", "app-2", "--owner", "app", *scopes, "--file", path)
    (stored,) = read_key_file(path).keys
    assert (stored.owner, stored.scopes) == ("app", frozenset(Scope))
    assert created["entry"]["owner"] == "app"
    assert poolshift.json("keys", "list", "--file", path) == [
        {"name": "app-2", "scopes": sorted(Scope), "owner": "app"},
    ]
    assert "app-2 (of app)" in poolshift.succeeds("keys", "list", "--file", path)
    refused = poolshift.fails(2, "keys", "create", "--name", "a", "--owner", "a\nb", "--scope", "admin")
    assert "printable" in refused


def test_the_last_admin_is_not_revoked_by_mistake(poolshift: Poolshift, path: Path) -> None:
    """Not without a word, since nobody could then change the rollout; any other key goes as it comes."""
    for name, scope in (("app", "execute"), ("root", "admin"), ("spare", "admin")):
        poolshift.succeeds("keys", "create", "--name", name, "--scope", scope, "--file", path)
    poolshift.succeeds("keys", "revoke", "spare", "--file", path)
    before = path.read_bytes()
    refused = poolshift.fails(1, "keys", "revoke", "root", "--file", path)
    assert "'root' is the last key with the scope admin" in refused
    assert "--last-admin" in refused
    assert path.read_bytes() == before
    assert "no key is named 'rot'" in poolshift.fails(1, "keys", "revoke", "rot", "--last-admin", "--file", path)
    assert poolshift.json("keys", "revoke", "root", "--last-admin", "--file", path) == {"revoked": "root"}
    assert [key.name for key in read_key_file(path).keys] == ["app"]
    poolshift.succeeds("keys", "revoke", "app", "--file", path)


def test_a_terminal_is_asked_before_no_key_is_left(poolshift: Poolshift, path: Path) -> None:
    """Nobody could do anything then; `--yes` asks nothing, and neither does one of several keys."""
    for name in ("one", "other"):
        poolshift.succeeds("keys", "create", "--name", name, "--scope", "execute", "--file", path)
    assert asked(poolshift, path, "other", b"") == (0, "")
    exit_code, said = asked(poolshift, path, "one", b"n\n")
    assert exit_code != 0
    assert f"{path} has no other key, and nobody could do anything: revoke one?" in said
    assert [key.name for key in read_key_file(path).keys] == ["one"]
    assert asked(poolshift, path, "one", b"", "--yes") == (0, "")
    assert read_key_file(path).keys == ()


def asked(poolshift: Poolshift, path: Path, name: str, typed: bytes, *more: str) -> tuple[int, str]:
    """Revokes a key at a terminal; returns the exit code, and what is said beside the answer."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed)
        command = [str(SCRIPT), "keys", "revoke", name, "--file", str(path), *more]
        environment = {**poolshift.environment, "TERM": "dumb"}
        ended = subprocess.run(
            command, env=environment, stdin=theirs, capture_output=True, text=True, timeout=60, check=False
        )
        return ended.returncode, ended.stderr
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_file_without_a_key_is_warned_of(start_service: StartService, tmp_path: Path) -> None:
    """The service starts, since keys may come, and says that it lets nobody in; again if the last one goes."""
    path = tmp_path / "keys.yaml"
    path.write_text("keys: []\n")
    service = start_service(API_KEYS_FILE=path)
    wait_until(lambda: "API_KEYS_FILE has no key" in service.log(), "the log warns")
    assert service.client.get("/rollout").status_code == 401
