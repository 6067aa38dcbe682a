"""`poolshift init`: its README, followed word for word in an empty folder."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cli.programs.init import starter_files
from routing.rollout.plan import parse_plan
from tests.support.service import POOLSHIFT, ROOT, free_port
from tests.support.waiting import wait_until

PORT = free_port()
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PORT": str(PORT),
    "POOLSHIFT_URL": f"http://127.0.0.1:{PORT}",
    "V1_POOL_SIZE": "1",
    "V2_POOL_SIZE": "1",
}


def init(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*POOLSHIFT, "init", str(folder)], capture_output=True, text=True, check=False, timeout=60)


def sh(command: str, folder: Path) -> str:
    """Runs a block of the README in the folder; returns what it prints on either stream."""
    ran = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env={**ENVIRONMENT, "HOME": str(folder.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new folder, with nothing in it but what `init` has made."""
    folder = tmp_path_factory.mktemp("init") / "shop"
    made = init(folder)
    assert (made.returncode, made.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def steps(folder: Path) -> list[str]:
    """The blocks of the README, one by one."""
    return re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def service(folder: Path, steps: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The README's service: its settings are those of the folder, but for the port and the number of workers."""
    with served(folder, steps, ENVIRONMENT) as process:
        yield process


@contextmanager
def served(folder: Path, steps: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The service that the README's command starts, in this environment."""
    (command,) = [step for step in steps if step.startswith("poolshift serve")]
    with (folder.parent / "service.log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-ec", f"exec {command}"],
            cwd=folder,
            env={**environment, "HOME": str(folder.parent)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: is_ready(environment["POOLSHIFT_URL"]), "the service is ready")
        yield process
    finally:
        process.terminate()
        process.wait(30)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_every_step_of_the_readme_works(folder: Path, steps: list[str], service: object) -> None:
    """The test passes, the program answers, the plan goes to its first step."""
    tested, served, ran, moved = steps
    assert "Ran 2 tests" in sh(tested, folder)
    assert served == "poolshift serve --reload\n"
    said = sh(ran, folder)
    assert "11.9" in said
    assert "created" in said
    assert "1 %" in sh(moved, folder)
    status = json.loads(sh("poolshift rollout status --json", folder))
    assert (status["state"], status["canary_percent"]) == ("ramping", 1.0)


HELD = """import os, pathlib, time


def hold(directory: str, number: int) -> int:
    here = pathlib.Path(directory)
    (here / f"began.{number}").touch()
    while not (here / f"go.{number}").exists():
        time.sleep(0.005)
    return os.getpid()
"""
"""A program that runs until the test lets it end."""


def test_the_first_calls_run_at_once(tmp_path: Path) -> None:
    """Eight calls on four workers, all of them V1's, are two rounds of four."""
    folder, marks = tmp_path / "shop", tmp_path / "marks"
    assert init(folder).returncode == 0
    marks.mkdir()
    (folder / "held.py").write_text(HELD)
    port = free_port()
    environment = {
        **ENVIRONMENT,
        "PORT": str(port),
        "POOLSHIFT_URL": f"http://127.0.0.1:{port}",
        "PROGRAM_MODULES": "orders,held",
        "V1_POOL_SIZE": "4",
        "V2_POOL_SIZE": "4",
    }
    readme = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)

    def call(number: int) -> httpx.Response:
        body = {"inputs": {"directory": str(marks), "number": number}}
        return httpx.post(f"{environment['POOLSHIFT_URL']}/programs/hold/execute", json=body, timeout=60)

    with served(folder, readme, environment), ThreadPoolExecutor(8) as threads:
        definition = {"id": "hold", "program_type": "python", "entrypoint": "held:hold"}
        httpx.post(f"{environment['POOLSHIFT_URL']}/programs", json=definition).raise_for_status()
        calls = [threads.submit(call, number) for number in range(8)]
        let_go: set[str] = set()
        for _ in range(2):
            wait_until(lambda: len(names(marks, "began") - let_go) == 4, "as many run as there are workers")
            running = names(marks, "began") - let_go
            for number in running:
                (marks / f"go.{number}").touch()
            let_go.update(running)
        answers = [one.result() for one in calls]
    assert [answer.json()["pool_version"] for answer in answers] == ["v1"] * 8
    assert len({answer.json()["outputs"]["result"] for answer in answers}) == 4


def names(directory: Path, event: str) -> set[str]:
    """The calls that have come so far."""
    return {path.suffix[1:] for path in directory.glob(f"{event}.*")}


def test_make_run_serves_the_folder_alike(folder: Path, steps: list[str]) -> None:
    """By the command of the README, in the folder."""
    command = ["make", "--dry-run", "--no-print-directory", "run", f"FOLDER={folder}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"cd {folder} && " in shown
    (served,) = [step.strip() for step in steps if step.startswith("poolshift serve")]
    assert shown.rstrip().endswith(f"/bin/{served}")


def test_every_file_is_named(folder: Path) -> None:
    """In the README, whose table has what each is; none is empty."""
    made = {name: (folder / name).read_text() for name in starter_files()}
    assert made == starter_files()
    for name in made.keys() - {"README.md", ".gitignore"}:
        assert f"`{name}`" in made["README.md"], name
        assert made[name].strip()


def test_the_plan_and_the_image_are_those_of_this_version() -> None:
    """The plan is valid, and the image is built on the one that `make image` builds."""
    files = starter_files()
    assert parse_plan(files["plan.yaml"].encode()).steps[-1].percent == 100
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert files["Dockerfile"].startswith(f"FROM poolshift:{version[1]}\n")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden"])
def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, name: str) -> None:
    """Exit code 4, one line; so is a file in the folder's place."""
    (tmp_path / name).write_text("mine")
    for place in (tmp_path, tmp_path / name):
        refused = init(place)
        assert (refused.returncode, refused.stderr) == (
            4,
            f"poolshift: {place} is not an empty folder: nothing has been written\n",
        )
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_cannot_be_made_is_told() -> None:
    """Exit code 2, with the reason."""
    refused = init(Path("/proc/poolshift"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("poolshift: /proc/poolshift: ")
