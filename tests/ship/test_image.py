"""The image, built by `make image` and run as a production would: read-only, without root, without capabilities."""

import json
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests.ship.containers import Container, assert_size_of_the_readme, container, podman
from tests.ship.tools import BIN, run
from tests.support.programs import slow_echo
from tests.support.service import ROOT
from tests.support.waiting import wait_until
from tools.vendor import VENDORED, read_manifest

pytestmark = pytest.mark.ship

# Programs of one's own, mounted where the workers import from.
OWN_PROGRAMS = f"--volume={ROOT / 'tests/support/programs.py'}:/programs/own.py:ro"


def _create(client: httpx.Client, entrypoint: str, inputs: dict[str, str], output: str) -> str:
    body = {
        "program_type": "python",
        "entrypoint": entrypoint,
        "signature": {
            "inputs": [{"name": name, "type": kind} for name, kind in inputs.items()],
            "outputs": [{"name": output, "type": "array" if output == "keywords" else "string"}],
        },
    }
    created: dict[str, Any] = client.post("/programs", json=body).raise_for_status().json()
    return f"/programs/{created['id']}/execute"


class _Call(threading.Thread):
    """A call in flight."""

    def __init__(self, client: httpx.Client, path: str, inputs: dict[str, Any]) -> None:
        super().__init__()
        self._request = (client, path, inputs)
        self.answer: httpx.Response | None = None

    def run(self) -> None:
        client, path, inputs = self._request
        self.answer = client.post(path, json={"inputs": inputs})


def _run_busily(running: Container, seconds: float) -> _Call:
    path = _create(running.client, f"own:{slow_echo.__name__}", {"nonce": "string", "seconds": "number"}, "result")
    call = _Call(running.client, path, {"nonce": "n", "seconds": seconds})
    call.start()
    wait_until(lambda: running.client.get("/pools/v1").json()["busy"] == 1, "the call runs")
    return call


def test_serves_a_program(image: str) -> None:
    """Closed as it is, it runs a program on both versions; nothing but its state is written."""
    with container(image, CANARY_PERCENT="50") as running:
        path = _create(running.client, "examples.text:keywords", {"text": "string"}, "keywords")
        for version in ("v1", "v2"):
            answer = running.client.post(path, json={"inputs": {"text": "a pool"}}, headers={"X-Pool-Version": version})
            assert answer.json()["outputs"] == {"keywords": ["pool"]}
            assert answer.headers["x-pool-version"] == version
        assert running.exec("id", "-u").stdout.strip() == "10001"
        written = running.exec("find", "/", "-xdev", "-newer", "/proc/1/stat", "-type", "f", check=False).stdout
        assert not written.strip()


def test_its_hot_path_is_compiled(image: str) -> None:
    """The log says so at the start, and the modules are there in C, without the compiler's own files."""
    with container(image) as running:
        lines = running.log().splitlines()
        started = json.loads(next(line for line in lines if '"started"' in line))
        assert started["compiled"] is True
        names = running.exec("find", "/opt/poolshift/lib", "-name", "*.so", "-path", "*/pools/*").stdout
        assert "/pools/engine." in names


def test_has_no_build_tools(image: str) -> None:
    """No compiler, no installer of packages for Python on a path, and nothing that the user it runs as could change."""
    with container(image) as running:
        for tool in ("pip", "pip3", "uv", "cc", "gcc", "make", "git", "curl"):
            assert running.exec("sh", "-c", f"command -v {tool}", check=False).returncode != 0, tool
        for module in ("pip", "setuptools", "hatchling"):
            assert running.exec("python", "-c", f"import {module}", check=False).returncode != 0, module
        assert not running.exec(
            "find", "/opt/poolshift", "/programs", "/packages", "-writable", "-not", "-type", "l"
        ).stdout


def test_stop_finishes_what_was_accepted(image: str) -> None:
    """`stop` reaches the service through PID 1: the call in flight is answered, then it ends with 0."""
    with container(image, OWN_PROGRAMS, PROGRAM_MODULES="own", POOL_VERSION="v1") as running:
        call = _run_busily(running, seconds=3)
        podman("stop", "--time", "30", running.name)
        call.join(30)
        assert call.answer is not None
        assert call.answer.status_code == 200, call.answer.text
        assert call.answer.json()["outputs"] == {"result": "n"}
        assert running.state()["ExitCode"] == 0, running.log()


def test_stop_ends_what_outlives_the_drain(image: str) -> None:
    """A call that takes longer than `DRAIN_TIMEOUT_S` is told so, and the end is in order all the same."""
    with container(
        image, OWN_PROGRAMS, PROGRAM_MODULES="own", POOL_VERSION="v1", DRAIN_TIMEOUT_S="0.2", EXECUTION_TIMEOUT_S="300"
    ) as running:
        call = _run_busily(running, seconds=300)
        podman("stop", "--time", "30", running.name)
        call.join(30)
        assert call.answer is not None
        assert call.answer.json()["code"] == "pool_closed"
        assert running.state()["ExitCode"] == 0, running.log()


def test_refuses_to_be_open_by_accident(image: str) -> None:
    """Without a word on who may call it does not start, and says in one line why."""
    done = podman("run", "--rm", "--network", "none", image, check=False)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("time="))
    assert "API_KEYS_FILE" in line


def test_the_health_check_tells(image: str) -> None:
    """Healthy while it can serve, unhealthy where nobody answers."""
    assert json.loads(podman("image", "inspect", image).stdout)[0]["Healthcheck"]["Test"] == ["CMD", "healthcheck"]
    with container(image) as running:
        podman("healthcheck", "run", running.name)
        silent = podman("run", "--rm", "--network", "none", image, "healthcheck", check=False)
        assert silent.returncode == 1
        assert "no answer" in silent.stderr


def test_migrates_without_serving(image: str) -> None:
    """`poolshift migrate` brings a new database up to date and ends; the service finds nothing left to do."""
    volume = podman("volume", "create").stdout.strip()
    mounted = f"--volume={volume}:/var/lib/poolshift"
    try:
        podman("run", "--rm", mounted, "--env=HOST=127.0.0.1", "--network", "none", image, "poolshift", "migrate")
        query = (
            "import sqlite3; print(sqlite3.connect('poolshift.db').execute('SELECT * FROM alembic_version').fetchall())"
        )
        in_place = ("--workdir=/var/lib/poolshift", "--network", "none")
        migrated = podman("run", "--rm", mounted, *in_place, image, "python", "-c", query).stdout
        newest = max(path.stem.partition("_")[0] for path in (ROOT / "store/migrations/versions").glob("[0-9]*.py"))
        assert newest in migrated
    finally:
        podman("volume", "rm", "--force", volume)


def test_says_what_it_is(image: str) -> None:
    """Labels by the OCI's names, with the one version of the project."""
    labels = json.loads(podman("image", "inspect", image).stdout)[0]["Labels"]
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert labels["org.opencontainers.image.version"] == version[1]
    revision = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    assert labels["org.opencontainers.image.revision"] == revision
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["org.opencontainers.image.created"])


def test_is_as_big_as_the_readme_says(image: str) -> None:
    """Whoever sees the difference knows what a change has cost."""
    assert_size_of_the_readme(image, "none")


def test_the_parts_lists_name_every_package(image: str, tmp_path: Path) -> None:
    """Each package that is in the image is in its notices and in its SBOM, and so are Debian's in the latter."""
    script = (
        "import json; from importlib.metadata import distributions as found;"
        "print(json.dumps([[package.name, package.version] for package in found()]))"
    )
    said = podman("run", "--rm", "--network", "none", image, "python", "-c", script).stdout
    packages = {(name, version) for name, version in json.loads(said) if name not in ("poolshift", "poolshift-service")}
    notices = podman(
        "run", "--rm", "--network", "none", image, "cat", "/opt/poolshift/share/licenses/THIRD-PARTY-NOTICES"
    ).stdout
    vendored = {(name, package.version) for name, package in read_manifest(VENDORED).items()}
    assert packages | vendored == {
        (name, version) for name, version in re.findall(r"^={80}\n(\S+) (\S+)\n.+\n={80}$", notices, re.MULTILINE)
    }

    run("make", "sbom", f"IMAGE={image}", f"DIST={tmp_path}", cwd=ROOT)
    (file,) = tmp_path.iterdir()
    listed = [component.get("purl", "") for component in json.loads(file.read_text())["components"]]
    pypi = {tuple(purl.removeprefix("pkg:pypi/").split("@")) for purl in listed if purl.startswith("pkg:pypi/")}
    assert {(_normal(name), version) for name, version in packages} <= {(_normal(name), rest) for name, rest in pypi}
    assert any(purl.startswith("pkg:deb/debian/python3") for purl in listed)
    assert {f"pkg:npm/{name}@{version}" for name, version in vendored} <= {unquote(purl) for purl in listed}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_linters_find_nothing(tmp_path: Path) -> None:
    """hadolint and trivy have nothing to say against the Dockerfile, and would."""
    hadolint = BIN / "hadolint"
    trivy = (BIN / "trivy", "config", "--quiet", "--skip-check-update", "--exit-code", "1")
    run(hadolint, ROOT / "Dockerfile")
    run(*trivy, ROOT / "Dockerfile")
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM debian:latest\nUSER root\n")
    assert run(hadolint, careless, check=False).returncode == 1
    assert run(*trivy, careless, check=False).returncode == 1
