"""docs/programs.md: every example is put to a real service, in the order of the page, and answers as it says."""

import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.support.pages import Block, blocks, codes, page, section, table
from tests.support.service import POOLSHIFT, Service
from tests.support.waiting import wait_until

PAGE = page("programs.md")
BLOCKS = blocks(PAGE)


def module(directory: Path, name: str) -> None:
    """Writes the page's module, all of its pieces."""
    pieces = [block.text for block in BLOCKS if block.info == f"python {name}"]
    assert pieces
    (directory / name).write_text("\n\n".join(pieces))


class Reader:
    """Does what a reader of the page does: one block after the other."""

    def __init__(self, service: Service, directory: Path) -> None:
        self._service = service
        self._directory = directory
        self._answer: httpx.Response | None = None
        self._created: dict[str, Any] = {}
        self.done: list[str] = []

    def read(self, block: Block) -> None:
        """Does what a block says, or sees that the last answer is as it says."""
        match block.info.split():
            case ["python", "shop.py" | "prices.py"] | ["text", "requirements.txt"] | ["sh", "make"] | ["dockerfile"]:
                return  # is there already, or tests/make/test_requirements.py and tests/ship/test_own_image.py do that
            case ["json", "create" | "put", *named]:
                self._is_taken(block.json(), *named)
            case ["json", "created"]:
                self._is_created(block.json())
            case ["yaml", _] | ["console"]:
                self._is_done(block)
            case ["json", "execute", program]:
                assert self._answer is None, "an execution without its answer"
                self._answer = self._service.client.post(f"/programs/{program}/execute", content=block.text)
            case ["json", "batch", program]:
                assert self._answer is None, "a batch without its answer"
                self._answer = self._service.client.post(f"/programs/{program}/batch", content=block.text)
            case ["json", "refused"]:
                self._is_refused(**block.json())
            case ["json", status]:
                self._is_answered(int(status), block.json())
            case ["text", "log"]:
                self._is_logged(block.text.splitlines())
            case _:
                raise AssertionError(f"a block that nobody tries: {block.info!r}")
        self.done.append(block.info.split()[-1 if block.info == "console" else 1])

    def _is_created(self, members: dict[str, Any]) -> None:
        assert {name: self._created[name] for name in members} == members

    def _is_done(self, block: Block) -> None:
        """Writes a file, or runs a command there."""
        kind, *names = block.info.split()
        if kind == "console":
            self._is_printed(*block.text.split("\n", 1))
        for name in names:
            (self._directory / name).parent.mkdir(exist_ok=True)
            (self._directory / name).write_text(block.text)

    def _is_taken(self, body: dict[str, Any], program: str | None = None) -> None:
        """Creates a program, replaces the definition of `program`, or gives V2 one of its own."""
        method, path, status = ("POST", "/programs", 201) if program is None else ("PUT", f"/programs/{program}", 200)
        if program is not None and program.endswith("?pool_version=v2"):
            status = 201
        answer = self._service.client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        self._created = answer.json()

    def _is_answered(self, status: int, members: dict[str, Any]) -> None:
        assert self._answer is not None
        assert self._answer.status_code == status, self._answer.text
        answer = self._answer.json()
        if "items" in members:
            for item, expected in zip(answer["items"], members["items"], strict=True):
                assert item | expected == item
        else:
            assert {name: answer.get(name) for name in members} == members
        self._answer = None

    def _is_refused(self, entrypoint: str, says: str) -> None:
        outputs = [{"name": "result", "type": "string"}]
        body = {"program_type": "python", "entrypoint": entrypoint, "signature": {"inputs": [], "outputs": outputs}}
        answer = self._service.client.post("/programs", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert says in answer.json()["detail"]

    def _is_printed(self, command: str, output: str) -> None:
        ended = subprocess.run(
            [*POOLSHIFT, *command.removeprefix("$ poolshift ").split()],
            cwd=self._directory,
            env={"PATH": os.environ["PATH"], "POOLSHIFT_URL": self._service.url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)

    def _is_logged(self, expected: list[str]) -> None:
        for text in expected:
            wait_until(lambda text=text: text in self._service.log(), f"{text!r} is logged")  # type: ignore[misc]


def test_the_page_from_top_to_bottom(start_service: StartService, version: str, tmp_path: Path) -> None:
    """Each program is created, each call answered as the page says, each mistake refused."""
    module(tmp_path, "shop.py")
    service = start_service(POOL_VERSION=version, PROGRAM_MODULES="shop", PYTHONPATH=tmp_path)
    reader = Reader(service, tmp_path)
    for block in BLOCKS:
        reader.read(block)
    kinds = ("create", "put", "console", "execute", "batch", "refused")
    counts = {kind: reader.done.count(kind) for kind in kinds}
    assert counts["execute"] + counts["batch"] == sum(
        reader.done.count(status) for status in ("200", "422", "500", "502", "503", "504")
    )
    assert min(counts.values()) > 0


@pytest.mark.parametrize("row", table(section(PAGE, "## Signatures"), "type"), ids=lambda row: row["type"])
def test_a_type_takes_what_the_page_says(shared_service: Service, row: dict[str, str]) -> None:
    """A value that fits goes in and comes out unchanged; another is refused."""
    (kind,) = codes(row["type"])
    program = shared_service.create("echo", {"nonce": kind}, kind)

    def call(value: str) -> httpx.Response:
        return shared_service.client.post(f"/programs/{program}/execute", content=f'{{"inputs": {{"nonce": {value}}}}}')

    for value in codes(row["JSON that fits"]):
        answer = call(value)
        assert answer.status_code == 200, answer.text
        assert answer.text.replace(" ", "").find(f'"outputs":{{"result":{value.replace(" ", "")}}}') > 0
    for value in codes(row["does not fit"]):
        assert call(value).json()["code"] == "invalid_inputs"
