"""The service and PostgreSQL as compose.yaml has them, run by Compose itself, on Podman in place of Docker's engine."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ship.containers import BASE, build_flags, podman
from tests.ship.tools import BIN, run
from tests.support.service import ROOT, free_port, says_ready
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ship

POSTGRES = "localhost/poolshift-postgres:trixie"
PROGRAM = {
    "id": "keywords",
    "program_type": "python",
    "entrypoint": "examples.text:keywords",
    "signature": {
        "inputs": [{"name": "text", "type": "string"}],
        "outputs": [{"name": "keywords", "type": "array"}],
    },
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Podman, speaking Docker's language."""
    socket = tmp_path_factory.mktemp("engine") / "podman.sock"
    address = f"unix://{socket}"
    with subprocess.Popen(
        ["podman", "--runtime", "runc", "system", "service", "--time", "0", address]
    ) as podman_engine:
        try:
            wait_until(socket.exists, "podman listens")
            yield address
        finally:
            podman_engine.terminate()


class Compose:
    """compose.yaml with the least that it takes here: images that are here already, and the machine's own network."""

    def __init__(self, engine: str, folder: Path, image: str) -> None:
        self._environment = {**os.environ, "DOCKER_HOST": engine, "COMPOSE_PROJECT_NAME": f"poolshift-{os.getpid()}"}
        port, postgres_port = free_port(), free_port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        hosts = ["postgres:127.0.0.1"]
        url = f"postgresql+asyncpg://poolshift:poolshift@postgres:{postgres_port}/poolshift"
        here: dict[str, Any] = {
            "poolshift": {
                "image": image,
                "network_mode": "host",
                "extra_hosts": hosts,
                "environment": {"PORT": str(port), "DATABASE_URL": url, "V1_POOL_SIZE": "1", "V2_POOL_SIZE": "1"},
            },
            "postgres": {"image": POSTGRES, "network_mode": "host", "environment": {"PGPORT": str(postgres_port)}},
        }
        file = folder / "here.yaml"
        file.write_text(yaml.safe_dump({"services": here}))
        self._command: list[str | Path] = [
            BIN / "docker-compose",
            "--project-directory",
            ROOT,
            "-f",
            ROOT / "compose.yaml",
            "-f",
            file,
        ]

    def __call__(self, *arguments: str) -> str:
        return run(*self._command, *arguments, env=self._environment).stdout

    def up(self) -> None:
        """Starts PostgreSQL and, once that is healthy, the service; returns when that can serve."""
        command = [*self._command, "up", "--detach", "--no-build", "--pull", "never", "poolshift"]
        with subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE, text=True) as starting:

            def has_started() -> bool:
                # Podman leaves it to systemd to run health checks; here they are run by hand, as the file has them.
                for container in self("ps", "--quiet", "postgres").split():
                    podman("healthcheck", "run", container, check=False)
                return starting.poll() is not None

            try:
                wait_until(has_started, "Compose has started all", 60)
                _, said = starting.communicate()
            finally:
                starting.kill()
        assert starting.returncode == 0, said
        wait_until(lambda: says_ready(self.client), "the service is ready")


@pytest.fixture
def compose(engine: str, image: str, tmp_path: Path) -> Iterator[Compose]:
    """Builds the images first, and takes everything down again with its volumes."""
    run(*("buildah", "build", *build_flags().split(), "--build-arg", f"DEBIAN={BASE}", "--tag", POSTGRES),
        ROOT / "tests/ship/postgres")  # fmt: skip
    composed = Compose(engine, tmp_path, image)
    try:
        yield composed
    finally:
        composed.client.close()
        composed("down", "--volumes", "--timeout", "5")


def test_one_command_starts_the_service_on_postgresql(compose: Compose) -> None:
    """Programs run; what was created is still there when all of it was taken down and started again."""
    compose.up()
    assert compose.client.post("/programs", json=PROGRAM).status_code == 201
    assert compose.client.patch("/rollout", json={"canary_percent": 100}).status_code == 200
    compose("down", "--timeout", "20")
    compose.up()
    answer = compose.client.post("/programs/keywords/execute", json={"inputs": {"text": "pool pool worker"}})
    assert answer.json()["outputs"]["keywords"][0] == "pool"
    assert answer.headers["x-pool-version"] == "v2"
    # It runs as it is told to: what Compose asks for is what Podman has done.
    (container,) = compose("ps", "--quiet", "poolshift").split()
    inspected = podman("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}} {{.BoundingCaps}}", container).stdout
    assert inspected.split()[0] == "true"
    assert inspected.split()[1] == "[]"
