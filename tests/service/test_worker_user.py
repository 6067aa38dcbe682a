"""The service's secrets are out of a program's reach: in its environment, its memory and its files."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.service.test_faults import whole
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

SECRET = "sk-the-lms-own-secret"
NOBODY = pwd.getpwnam("nobody")
MODULES = "tests.support.programs,tests.support.spies"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user of a process")


@pytest.fixture(scope="module")
def command() -> Iterator[list[str]]:
    """The service's command in a Python that any user can read, as root's own may lie in its home."""
    found = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    if found is None or not os.access(ROOT / "cli", os.R_OK):
        pytest.skip("this machine has no such Python for everyone")
    if not all(folder.stat().st_mode & stat.S_IXOTH for folder in (ROOT, *ROOT.parents)):
        pytest.skip("other users cannot enter the folder of the checkout")
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))
    place.chmod(0o755)
    subprocess.run([found, "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = place.glob("lib/python3*/site-packages")
    installed = next(entry for entry in sys.path if entry.endswith("site-packages"))
    (packages / "installed.pth").write_text(f"import site; site.addsitedir({installed!r})\n")
    yield [str(place / "bin" / "python"), "-c", "from _poolshift_service import main; main()"]
    shutil.rmtree(place)


@pytest.fixture
def directory(command: list[str]) -> Iterator[Path]:
    """A folder that everyone can look into, with a key file that only its owner can read."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


def serving(directory: Path, command: list[str], user: int | None = None, **settings: Any) -> Service:
    """A service with a secret; its clients need no key."""
    more = {"PROGRAM_MODULES": MODULES, "LM_API_KEY": SECRET, "MY_TOKEN": SECRET, "OTEL_EXPORTER_OTLP_HEADERS": SECRET}
    return Service(directory, command=command, user=user, **(more | settings))


def spy(service: Service, files: list[Path]) -> dict[str, str]:
    fields = [{"name": "files", "type": "array"}, {"name": "secret", "type": "string"}]
    body = {
        "program_type": "python",
        "entrypoint": "tests.support.spies:spies",
        "signature": {"inputs": fields, "outputs": [{"name": "found", "type": "object"}]},
    }
    made = service.client.post("/programs", json=body)
    assert made.status_code == 201, made.text
    answer = service.execute(made.json()["id"], inputs={"files": list(map(str, files)), "secret": SECRET})
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()["outputs"]["found"]
    return found


def test_a_program_of_another_user(directory: Path, command: list[str], version: str) -> None:
    """Neither environment, memory, descriptors, key file nor database; and no way back to root."""
    keys = directory / "keys.yaml"
    keys.write_text(SECRET)
    keys.chmod(0o600)
    service = serving(directory, command, POOL_VERSION=version, WORKER_USER="nobody")
    try:
        service.start()
        files = [keys, directory / "poolshift.db"]
        assert files[1].exists()
        assert spy(service, files) == {
            **dict.fromkeys(["environ", "memory", "files", "trace", "root", "zygote", "kill"], "denied"),
            **dict.fromkeys(map(str, files), "denied"),
            "own environment": "no secret",
            "sudo": "1",
        }
        who = service.execute(service.create("tests.support.spies:user", {}, "object")).json()["outputs"]["result"]
        assert who == {
            "uid": [NOBODY.pw_uid] * 3,
            "gid": [NOBODY.pw_gid] * 3,
            "groups": [],
            "files": True,
            "environ": "denied",
            "environ of a child": True,
            "said": "hello\n",
            "oom": "500",
        }
        assert all(worker["open_fds"] >= 4 for worker in service.pool(version)["workers"])
        echo = service.create("echo", {"nonce": "string"})
        assert service.execute(echo, inputs={"nonce": "a"}).json()["outputs"] == {"result": "a"}
        assert service.stop() == 0
    finally:
        service.close()


def test_a_program_of_the_same_user(directory: Path, command: list[str]) -> None:
    """Without `WORKER_USER`: the environment shows no secret, and the memory is closed unless both are root."""
    os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
    service = serving(directory, command, user=NOBODY.pw_uid)
    try:
        service.start()
        found = spy(service, [])
        assert {found[name] for name in ("environ", "memory", "files", "trace", "zygote")} == {"denied"}
        assert (found["own environment"], found["sudo"]) == ("no secret", "1")
    finally:
        service.close()


def test_a_program_opens_no_worker_s_pipes(directory: Path, command: list[str], version: str) -> None:
    """Not by their names in /proc either: nobody may open its own worker's again, nor a sibling's."""
    os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
    sizes = {f"{name.upper()}_POOL_SIZE": 2 for name in ("v1", "v2")}
    service = serving(directory, command, user=NOBODY.pw_uid, POOL_VERSION=version, **sizes)
    try:
        service.start()
        wait_until(lambda: whole(service, version), "both workers are there")
        program = service.create("tests.support.spies:opens_pipes_of_siblings", {}, "array")
        assert set(service.execute(program).json()["outputs"]["result"]) == {"denied"}
    finally:
        service.close()


def test_root_sees_no_secret_in_the_environment(directory: Path, command: list[str]) -> None:
    """The service overwrites its secrets in its environment, also those that it reads again."""
    service = serving(directory, command)
    try:
        service.start()
        assert service.process is not None
        environment = Path(f"/proc/{service.process.pid}/environ").read_bytes()
        assert b"LM_API_KEY=xxx" in environment
        assert SECRET.encode() not in environment
        assert b"PATH=" + os.environ["PATH"].encode() in environment
        program = service.create("environment", {}, outputs=[{"name": "environment", "type": "object"}])
        assert SECRET not in service.execute(program).text
    finally:
        service.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"WORKER_USER": "nobody-of-this-name"}, "there is no such user"),
        ({"WORKER_USER": "99999999999"}, "there is no such user"),
        ({"WORKER_USER": "nobody", "API_KEYS_FILE": "keys.yaml"}, "can read keys.yaml"),
        ({"WORKER_USER": "nobody"}, "can read .env"),
        ({"WORKER_USER": "nobody", "DATABASE_URL": "sqlite+aiosqlite:///./mine.db"}, "can read mine.db"),
    ],
)
def test_a_user_that_makes_no_sense(directory: Path, command: list[str], settings: dict[str, Any], says: str) -> None:
    """The service does not start, and says why in one line: no such user, or one that could read a secret."""
    for name in ("keys.yaml", ".env", "mine.db"):
        path = directory / name
        path.write_text("")
        path.chmod(0o644 if name in says else 0o600)
    service = serving(directory, command, **settings)
    try:
        service.start(wait=False)
        assert service.wait_for_end() == 2
        (line,) = service.log().splitlines()
        assert says in line
        assert SECRET not in line
    finally:
        service.close()


def test_only_root_changes_the_user(directory: Path, command: list[str]) -> None:
    """Any other service says so at its start; its own user is no change."""
    os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
    refused = serving(directory, command, user=NOBODY.pw_uid, WORKER_USER="daemon")
    accepted = serving(directory, command, user=NOBODY.pw_uid, WORKER_USER="nobody")
    try:
        refused.start(wait=False)
        assert refused.wait_for_end() == 2
        assert "only a service that runs as root" in refused.log()
        accepted.start()
    finally:
        refused.close()
        accepted.close()


def processes_of(uid: int) -> int:
    """Counts the threads of a user, as RLIMIT_NPROC does."""
    return sum(process.num_threads() for process in psutil.process_iter(["uids"]) if process.info["uids"].real == uid)


def replaced_or_refused(service: Service) -> bool:
    pool = service.pool("v2")
    return "worker could not be started" in service.log() or pool["busy"] + pool["idle"] == pool["size"]


def test_a_fork_bomb_under_a_limit_of_processes(directory: Path, command: list[str]) -> None:
    """While no process can be started, living workers serve, and a dead one is replaced later by the same zygote."""
    os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
    limit = processes_of(NOBODY.pw_uid) + 100  # the service, its threads and workers need some 50 of them
    limited = ["prlimit", f"--nproc={limit}:{limit}", *command]
    service = serving(directory, limited, user=NOBODY.pw_uid, POOLS="v2", V2_POOL_SIZE=3, EXECUTION_TIMEOUT_S=600)
    try:
        service.start()
        bomb = service.create("forks_for_ever", {"refused": "string"})
        crashes = [service.create("exits_hard", {"code": "integer"}) for _ in range(20)]
        echo = service.create("echo", {"nonce": "string"})
        refused = directory / "refused"
        with httpx.Client(base_url=service.url, timeout=600) as client, ThreadPoolExecutor() as threads:
            call = threads.submit(client.post, f"/programs/{bomb}/execute", json={"inputs": {"refused": str(refused)}})
            wait_until(refused.exists, "no process can be started any more")
            while "worker could not be started" not in service.log():  # a replacement may be quicker than the bomb
                answer = service.execute(crashes.pop(), inputs={"code": 7})
                assert answer.json()["code"] == "worker_crashed"
                wait_until(lambda: replaced_or_refused(service), "its replacement is there, or refused")
            assert service.execute(echo, inputs={"nonce": "a"}).json()["outputs"] == {"result": "a"}
            assert service.client.get("/healthz").status_code == 200
            (busy,) = [worker["pid"] for worker in service.pool("v2")["workers"] if worker["state"] == "busy"]
            os.killpg(busy, signal.SIGKILL)
            assert call.result().json()["code"] == "worker_crashed"
        wait_until(lambda: whole(service, "v2"), "all workers are back")
        assert service.execute(echo, inputs={"nonce": "b"}).json()["outputs"] == {"result": "b"}
        assert "zygote died" not in service.log()
        assert service.stop() == 0
    finally:
        service.close()


def test_the_trial_of_modules_at_the_start_is_that_users(directory: Path, command: list[str]) -> None:
    """No code of a program runs as root, and the module sees the home of the user that it will run as."""
    (directory / "careful.py").write_text("import os\nraise RuntimeError(f\"{os.getresuid()} {os.environ['HOME']}\")\n")
    service = serving(
        directory, command, WORKER_USER="nobody", PROGRAM_MODULES="careful", PYTHONPATH=f"{ROOT}:{directory}"
    )
    try:
        service.start(wait=False)
        assert service.wait_for_end() == 3
    finally:
        service.close()
    ids = (NOBODY.pw_uid,) * 3
    assert (
        f"the module 'careful' fails on import: RuntimeError: {ids} {NOBODY.pw_dir} (careful.py, line 2)"
        in service.log()
    )
