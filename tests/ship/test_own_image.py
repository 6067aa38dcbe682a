"""An image of three lines on ours, as docs/programs.md has it: with programs, and with what they import."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ship.containers import build_flags, container, podman
from tests.ship.tools import run
from tests.support.pages import blocks, page

pytestmark = pytest.mark.ship

BLOCKS = {block.info: block.text for block in blocks(page("programs.md"))}
PROGRAM = {
    "program_type": "python",
    "entrypoint": "prices:total",
    "signature": {"inputs": [{"name": "amount", "type": "number"}], "outputs": [{"name": "total", "type": "string"}]},
}


@pytest.fixture
def own_image(image: str, tmp_path: Path) -> Iterator[str]:
    """The page's image, built with the page's files."""
    first, *lines = BLOCKS["dockerfile"].splitlines()
    assert (first, len(lines)) == ("FROM poolshift:0.1.0", 2)
    assert BLOCKS["dockerfile"] in page("deploy.md")
    (tmp_path / "Dockerfile").write_text("\n".join([f"FROM {image}", *lines]))
    (tmp_path / "prices.py").write_text(BLOCKS["python prices.py"])
    (tmp_path / "requirements.txt").write_text(BLOCKS["text requirements.txt"])
    name = f"localhost/poolshift-test-own:{os.getpid()}"
    run("buildah", "build", *build_flags().split(), "--format", "docker", "--tag", name, tmp_path)
    try:
        yield name
    finally:
        podman("rmi", "--force", name)


def test_a_program_imports_what_its_image_has_installed(own_image: str) -> None:
    """The workers of both versions have the package, the service has not, and nobody can change it."""
    with container(own_image, PROGRAM_MODULES="prices") as running:
        created = running.client.post("/programs", json=PROGRAM).raise_for_status().json()
        for version in ("v1", "v2"):
            answer = running.client.post(
                f"/programs/{created['id']}/execute",
                json={"inputs": {"amount": 1234567.891}},
                headers={"X-Pool-Version": version},
            )
            assert answer.json().get("outputs") == {"total": "1,234,567.89"}, answer.text
        code = "from _poolshift_service import own_path; print(any('/packages' == entry for entry in own_path()))"
        assert running.exec("python", "-c", code).stdout.strip() == "False"
        assert running.exec("id", "-u").stdout.strip() == "10001"
        assert not running.exec("find", "/packages", "/programs", "-writable", "-not", "-type", "l").stdout


def test_a_package_that_cannot_be_had_ends_the_build(image: str, tmp_path: Path) -> None:
    """No image comes of it, and pip says why."""
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY wanted.txt ./\nRUN install-requirements wanted.txt\n")
    (tmp_path / "wanted.txt").write_text("humanize==0.0.0.1\n")
    done = run("buildah", "build", *build_flags().split(), "--format", "docker", tmp_path, check=False)
    assert done.returncode != 0
    assert "humanize==0.0.0.1" in done.stdout + done.stderr
