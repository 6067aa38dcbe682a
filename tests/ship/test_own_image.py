"""Images of a few lines on ours, with programs and what these import: that of docs/programs.md, and that of `init`."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ship.containers import build_flags, container, image_on
from tests.ship.tools import run
from tests.support.pages import blocks, page
from tests.support.service import POOLSHIFT, ROOT

pytestmark = pytest.mark.ship

BLOCKS = {block.info: block.text for block in blocks(page("programs.md"))}
OURS = "poolshift:" + re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
PROGRAM = {
    "program_type": "python",
    "entrypoint": "prices:total",
    "signature": {"inputs": [{"name": "amount", "type": "number"}], "outputs": [{"name": "total", "type": "string"}]},
}


@pytest.fixture
def own_image(image: str, tmp_path: Path) -> Iterator[str]:
    """The page's image, built with the page's files."""
    first, *lines = BLOCKS["dockerfile"].splitlines()
    assert (first, len(lines)) == (f"FROM {OURS}", 2)
    assert BLOCKS["dockerfile"] in page("deploy.md")
    (tmp_path / "Dockerfile").write_text(BLOCKS["dockerfile"])
    (tmp_path / "prices.py").write_text(BLOCKS["python prices.py"])
    (tmp_path / "requirements.txt").write_text(BLOCKS["text requirements.txt"])
    with image_on(image, tmp_path, "own") as name:
        yield name


@pytest.fixture
def started_folder(tmp_path: Path) -> Path:
    """The folder that `poolshift init` makes, with a package that its programs may import."""
    folder = tmp_path / "shop"
    run(*POOLSHIFT, "init", folder)
    with (folder / "requirements.txt").open("a") as requirements:
        requirements.write(BLOCKS["text requirements.txt"])
    return folder


@pytest.fixture
def started_image(image: str, started_folder: Path) -> Iterator[str]:
    """The image of that folder, by the Dockerfile that is in it."""
    assert (started_folder / "Dockerfile").read_text().startswith(f"FROM {OURS}\n")
    with image_on(image, started_folder, "started") as name:
        yield name


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


def test_the_folder_of_init_is_an_image(started_folder: Path, started_image: str) -> None:
    """The README's commands create the program there and run it, on both versions. The image has the requirements."""
    steps = re.findall(r"```sh\n(.*?)```", (started_folder / "README.md").read_text(), re.DOTALL)
    (ran,) = [step for step in steps if step.startswith("poolshift programs apply")]
    with container(started_image) as running:
        bin_ = Path(sys.executable).parent
        environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "POOLSHIFT_URL": str(running.client.base_url)}
        said = run("sh", "-ec", ran, cwd=started_folder, env=environment).stdout
        assert "created" in said
        assert "11.9" in said
        for version in ("v1", "v2"):
            answer = running.client.post(
                "/programs/total/execute",
                json={"inputs": {"items": [{"price": 2.5, "quantity": 4}]}},
                headers={"X-Pool-Version": version},
            )
            assert answer.json().get("outputs") == {"net": 10.0, "gross": 11.9}, answer.text
            assert answer.headers["x-pool-version"] == version
        assert running.exec("python", "-c", "import humanize; print(humanize.__file__)").stdout.startswith("/packages/")


def test_a_package_that_cannot_be_had_ends_the_build(image: str, tmp_path: Path) -> None:
    """No image comes of it, and pip says why."""
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY wanted.txt ./\nRUN install-requirements wanted.txt\n")
    (tmp_path / "wanted.txt").write_text("humanize==0.0.0.1\n")
    done = run("buildah", "build", *build_flags().split(), "--format", "docker", tmp_path, check=False)
    assert done.returncode != 0
    assert "humanize==0.0.0.1" in done.stdout + done.stderr
