"""Images and containers without an engine's daemon, an image registry or a network of their own."""

import json
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.ship.tools import run
from tests.support.service import ROOT, free_port, says_ready
from tests.support.waiting import wait_until

BASE = "localhost/poolshift-debian:trixie"
PYTHON = "localhost/poolshift-python:trixie"
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP_CONF = Path("/etc/pip.conf")


def podman(*arguments: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Podman on runc."""
    return run("podman", "--runtime", "runc", *arguments, check=check, **options)


def build_flags() -> str:
    """Options for a build without a daemon that reaches package registries as this machine does."""
    files, processes = (resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    flags = (
        f"--isolation chroot --network host --pull=never --layers --ulimit nofile={files} --ulimit nproc={processes}"
    )
    return flags + "".join(f" -v {path}:{path}:ro" for path in (_CA_BUNDLE, _PIP_CONF) if path.exists())


def build_base(directory: Path) -> None:
    """A Debian with Python and one with venv beside it; the first is made once on a machine."""
    if podman("image", "exists", BASE, check=False).returncode != 0:
        archive = directory / "root.tar"
        run(
            *("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,python3"),
            *("--skip=output/dev", "trixie", archive),
        )
        podman("import", "--quiet", archive, BASE)
    build = ["buildah", "build", *build_flags().split(), "--target", "python", "--build-arg", f"DEBIAN={BASE}"]
    run(*build, "--tag", PYTHON, ROOT / "tests/ship/base")


@contextmanager
def built_image(extras: str = "") -> Iterator[str]:
    """Builds the image of `make image`, with these optional groups in it, for as long as the block lasts."""
    name = f"localhost/poolshift-test:{os.getpid()}{extras.replace(' ', '-')}"
    flags = f"{build_flags()} --format docker --build-arg PYTHON_IMAGE={PYTHON} --build-arg RUNTIME_IMAGE={BASE}"
    run("make", "image", "BUILDER=buildah", f"BUILD_FLAGS={flags}", f"IMAGE={name}", f"EXTRAS={extras}", cwd=ROOT)
    try:
        yield name
    finally:
        podman("rmi", "--force", name)


@contextmanager
def image_on(base: str, folder: Path, name: str) -> Iterator[str]:
    """Builds the Dockerfile of a folder, as it is, on the image `base`, for as long as the block lasts."""
    tag = f"localhost/poolshift-test-{name}:{os.getpid()}"
    run("buildah", "build", *build_flags().split(), "--format", "docker", "--from", base, "--tag", tag, folder)
    try:
        yield tag
    finally:
        podman("rmi", "--force", tag)


def assert_size_of_the_readme(image: str, groups: str) -> None:
    """The size that README.md gives for an image with these groups is true, give or take a tenth."""
    megabytes = int(podman("image", "inspect", "--format", "{{.Size}}", image).stdout) / 1e6
    stated = re.search(rf"^\| `?{groups}`? \| (\d+) MB \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert stated is not None
    assert abs(megabytes - int(stated[1])) < 0.1 * megabytes, f"{megabytes:.0f} MB"


class Container:
    """A container that runs on the machine's loopback, closed as a production has it."""

    def __init__(self, image: str, *options: str, **settings: str) -> None:
        self.port = free_port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        environment = {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "V1_POOL_SIZE": "1",
            "V2_POOL_SIZE": "1",
            **settings,
        }
        self.name = podman(
            *("run", "--detach", "--network", "host"),
            # no writable /tmp either, which podman would give it
            *("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *(f"--env={name}={value}" for name, value in environment.items()),
            *options,
            image,
        ).stdout.strip()

    def wait_ready(self) -> None:
        """Returns as soon as it can serve."""
        wait_until(self._is_ready, "the container is ready")

    def _is_ready(self) -> bool:
        if self.state()["Status"] == "exited":
            raise AssertionError(f"it ended:\n{self.log()}")
        return says_ready(self.client)

    def state(self) -> dict[str, Any]:
        """As podman has it."""
        state: dict[str, Any] = json.loads(podman("inspect", self.name).stdout)[0]["State"]
        return state

    def exec(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command in it."""
        return podman("exec", self.name, *command, check=check)

    def log(self) -> str:
        """Returns the container's log."""
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def remove(self) -> None:
        """Removes the container and its volumes."""
        self.client.close()
        podman("rm", "--force", "--volumes", "--time", "5", self.name)


@contextmanager
def container(image: str, *options: str, **settings: str) -> Iterator[Container]:
    """A container that is ready, for as long as the block lasts."""
    started = Container(image, *options, **settings)
    try:
        started.wait_ready()
        yield started
    finally:
        started.remove()
