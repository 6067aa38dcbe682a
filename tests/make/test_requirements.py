"""`make run REQUIREMENTS=…`: the workers have the packages, the service has not."""

import os
import re
import shlex
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.make.test_targets import make
from tests.support.pages import blocks, page
from tests.support.service import ROOT, Service, free_port
from tests.support.waiting import wait_until

BLOCKS = {block.info: block.text for block in blocks(page("programs.md"))}
PROGRAM = (
    BLOCKS["python prices.py"]
    + """

def where(package: str) -> str:
    import importlib
    return importlib.import_module(package).__file__
"""
)
VALUE = "def intcomma(amount, digits):\n    return f'{amount:,.{digits}f}'\n"


def write_wheel(directory: Path, name: str, version: str, code: str) -> Path:
    """Writes a wheel of one module, so that no registry is needed."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The page's folder: a program, and beside it the file with what the program imports."""
    folder = tmp_path / "my_programs"
    folder.mkdir()
    (folder / "prices.py").write_text(PROGRAM)
    # The page's package, and one of which the service has another version.
    wheels = [
        write_wheel(folder, "humanize", "4.17.0", VALUE),
        write_wheel(folder, "structlog", "0.1", "OURS = False\n"),
    ]
    assert BLOCKS["text requirements.txt"] == "humanize==4.17.0\n"
    (folder / "requirements.txt").write_text("".join(f"{wheel}\n" for wheel in wheels))
    return folder


@contextmanager
def running(directory: Path, command: str) -> Iterator[Service]:
    """The service that a command line of the page starts, from the checkout."""
    service = Service(directory, PORT=free_port())
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "PORT": str(service.port),
        "DATABASE_URL": f"sqlite+aiosqlite:///{directory}/poolshift.db",
        "LM_MODEL": "",
        "V1_POOL_SIZE": "1",
        "V2_POOL_SIZE": "1",
    }
    with service.log_path.open("ab") as log:
        service.process = subprocess.Popen(shlex.split(command), cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_until(service.is_ready, "the service is ready")
        yield service
    finally:
        service.close()


def test_the_workers_have_the_packages(programs: Path, tmp_path: Path) -> None:
    """The page's command: the program runs, on packages of its own; the service has its own ones, and logs by them."""
    command = BLOCKS["sh make"].strip()
    assert command.startswith("make run ")
    command = re.sub(r"\bmy_programs\b", str(programs), command).replace("make", f"make CACHE={tmp_path}/cache", 1)
    for is_first in (True, False):
        with running(tmp_path, command) as service:
            program = service.create("prices:total", {"amount": "number"})
            assert service.execute(program, inputs={"amount": 1234.5}).json()["outputs"] == {"result": "1,234.50"}
            program = service.create("prices:where", {"package": "string"})
            for package in ("humanize", "structlog"):
                place = service.execute(program, inputs={"package": package}).json()["outputs"]["result"]
                assert place.startswith(f"{tmp_path}/cache/packages/"), place
            assert service.log().count("Installing ") == 1, "once, since the file is the same"
            assert "[poolshift]" in service.log()
            if is_first:
                service.client.close()
                (tmp_path / "poolshift.db").unlink()


def test_a_file_that_is_not_there_gets_one_line(tmp_path: Path) -> None:
    """Nothing is started."""
    ended = make("run", f"REQUIREMENTS={tmp_path}/requirements.txt", f"CACHE={tmp_path}/cache")
    assert ended.returncode == 2
    assert f"REQUIREMENTS={tmp_path}/requirements.txt: there is no such file" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("content", "is_installed"), [("# none yet\n\n", False), ("humanize\n", True)])
def test_a_folder_brings_its_own(tmp_path: Path, content: str, is_installed: bool) -> None:
    """As `poolshift init` makes one: its file counts once a package is in it."""
    (tmp_path / "requirements.txt").write_text(content)
    shown = make("-n", "run", f"FOLDER={tmp_path}", f"CACHE={tmp_path}/cache").stdout
    assert (f"Installing {tmp_path}/requirements.txt" in shown) is is_installed
