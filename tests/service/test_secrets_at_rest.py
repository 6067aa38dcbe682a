"""LM keys in the database: encrypted where the service has a key for that, and the start says so where it has not."""

import base64
import os
from pathlib import Path

import pytest

from config.secret_key import InvalidSecretKey, read_secret_keys
from tests.cli.conftest import Poolshift
from tests.support.replicas import have_said
from tests.support.service import Service, running_service

SECRET = "sk-at-rest-0123456789"
LM = {"model": "openai/test", "api_base": "http://127.0.0.1:9/v1", "api_key": SECRET}
IN_THE_CLEAR = "LM keys lie in the database in the clear"
PATHS = ("/sessions/a/lm", "/lm")


def key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def key_file(directory: Path, *keys: str) -> Path:
    path = directory / "secret.keys"
    path.write_text("\n".join(keys) + "\n")
    return path


def stored(directory: Path) -> bytes:
    """All that SQLite has on the disk."""
    return b"".join(path.read_bytes() for path in directory.glob("poolshift.db*"))


@pytest.fixture
def poolshift(tmp_path: Path) -> Poolshift:
    """The command, in the folder of the service."""
    return Poolshift(tmp_path, {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})


def set_lms(service: Service) -> None:
    for path in PATHS:
        assert service.client.put(path, json=LM).status_code == 200


def has_keys(service: Service) -> bool:
    return all(service.client.get(path).json()["has_api_key"] for path in PATHS)


def refused(directory: Path, **settings: object) -> str:
    """Why a service does not start."""
    service = Service(directory, **settings)
    log_before = service.log()
    try:
        service.start(wait=False)
        assert service.wait_for_end() != 0
    finally:
        service.close()
    return service.log().removeprefix(log_before)


def test_keys_are_encrypted_and_rotated(tmp_path: Path) -> None:
    """Set with one key, read after restarts with it, and behind a newer one, which then suffices alone."""
    first, second = key(), key()
    with running_service(tmp_path, SECRET_KEY_FILE=key_file(tmp_path, first)) as service:
        set_lms(service)
        assert has_keys(service)
        assert SECRET.encode() not in stored(tmp_path)
        assert IN_THE_CLEAR not in service.log()
    for keys in ((first,), (second, first), (second,)):
        with running_service(tmp_path, SECRET_KEY_FILE=key_file(tmp_path, *keys)) as service:
            assert has_keys(service)
    assert SECRET.encode() not in stored(tmp_path)
    for settings in ({"SECRET_KEY_FILE": key_file(tmp_path, first)}, {}):
        assert "SECRET_KEY_FILE has no key that decrypts" in refused(tmp_path, **settings)


def test_a_lost_file_has_a_way_out(tmp_path: Path, poolshift: Poolshift) -> None:
    """The start names it; the command says what it would forget, and wants a word; then all but those keys is there."""
    lost, new = key_file(tmp_path, key()), tmp_path / "new.keys"
    with running_service(tmp_path, SECRET_KEY_FILE=lost) as service:
        set_lms(service)
    lost.unlink()
    (line,) = refused(tmp_path, SECRET_KEY_FILE=lost).splitlines()
    assert "No such file" in line
    assert "poolshift db forget-lm-keys" in line
    new.write_text(f"{key()}\n")
    settings = {"SECRET_KEY_FILE": str(new)}
    told = refused(tmp_path, **settings)
    assert "Traceback" not in told
    (line,) = [one for one in told.splitlines() if "SECRET_KEY_FILE has no key that decrypts" in one]
    assert "poolshift db forget-lm-keys" in line

    told = poolshift.fails(1, "db", "forget-lm-keys", **settings)
    assert "everyone's, that of the session 'a'" in told
    assert "poolshift db forget-lm-keys" in refused(tmp_path, **settings)
    forgotten = {"forgotten": ["everyone's", "that of the session 'a'"]}
    assert poolshift.json("db", "forget-lm-keys", "--yes", **settings) == forgotten
    assert poolshift.json("db", "forget-lm-keys", **settings) == {"forgotten": []}
    with running_service(tmp_path, **settings) as service:
        assert service.client.get("/lm").json()["model"] == LM["model"]
        assert not has_keys(service)
        set_lms(service)
        assert has_keys(service)


def test_keys_that_can_be_read_are_not_forgotten(tmp_path: Path, poolshift: Poolshift) -> None:
    """With the file that has their key, the command has nothing to do, whatever word it is given."""
    settings = {"SECRET_KEY_FILE": str(key_file(tmp_path, key()))}
    with running_service(tmp_path, **settings) as service:
        set_lms(service)
        assert "another process serves" in poolshift.fails(3, "db", "forget-lm-keys", "--yes", **settings)
    assert poolshift.json("db", "forget-lm-keys", "--yes", **settings) == {"forgotten": []}
    with running_service(tmp_path, **settings) as service:
        assert has_keys(service)


def test_keys_in_the_clear_are_said_to_be_and_then_encrypted(tmp_path: Path) -> None:
    """One line at the start, and only if there is a key; with a `SECRET_KEY_FILE` the start encrypts what is there."""
    with running_service(tmp_path) as service:
        assert IN_THE_CLEAR not in service.log()
        set_lms(service)
    assert SECRET.encode() in stored(tmp_path)
    with running_service(tmp_path) as service:
        assert have_said(service.log(), IN_THE_CLEAR)
        assert has_keys(service)
    logged = service.log()
    with running_service(tmp_path, SECRET_KEY_FILE=key_file(tmp_path, key())) as service:
        assert has_keys(service)
        assert IN_THE_CLEAR not in service.log().removeprefix(logged)
        assert service.client.put("/lm", json={"model": "none"}).status_code == 200


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it contains no key"),
        ("hunter2\n", "line 1 is not 32 bytes"),
        (f"{'A' * 43}=\nhunter2\n", "line 2 is not 32 bytes"),
        (f"{'A' * 42}hunter2=\n", "line 1 is not 32 bytes"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_keys(tmp_path: Path, content: str | None, why: str) -> None:
    """The fault is one line that says where, and shows nothing of what is in it."""
    path = tmp_path / "secret.keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidSecretKey) as caught:
        read_secret_keys(path)
    fault = str(caught.value)
    assert fault.startswith(f"{path}: ")
    assert why in fault
    assert "\n" not in fault
    assert "hunter2" not in fault


def test_a_fault_of_the_file_ends_the_start(tmp_path: Path) -> None:
    """The log has the fault and nothing else: no traceback shows what the file holds."""
    path = tmp_path / "secret.keys"
    path.write_text("hunter2\n")
    (line,) = refused(tmp_path, SECRET_KEY_FILE=path).splitlines()
    assert line.startswith(f"poolshift: SECRET_KEY_FILE={path}: line 1 is not 32 bytes")
    assert "hunter2" not in line
