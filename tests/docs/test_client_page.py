"""docs/client.md: each block of Python prints what the page shows, and the tables are those of the code."""

import ast
import asyncio
import contextlib
import inspect
import io
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from poolshift import client as package
from poolshift.client import Client, NoAnswer, Retry
from tests.support.pages import Block, blocks, codes, page, section, table
from tests.support.service import Service, running_service

PAGE = page("client.md")
PYTHON = [pair for pair in itertools.pairwise(blocks(PAGE)) if pair[0].info.startswith("python")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A fresh service, as the page begins with one."""
    directory = tmp_path_factory.mktemp("client-page")
    with running_service(directory, V1_POOL_SIZE=1, V2_POOL_SIZE=1) as service:
        yield service


def printed(block: Block, names: dict[str, Any]) -> str:
    """Runs a block; its output."""
    code = compile(block.text, "docs/client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        if block.info == "python async":
            asyncio.run(eval(code, dict(names)))
        else:
            exec(code, names)
    return output.getvalue()


def test_every_block_prints_what_the_page_shows(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, in the order of the page."""
    monkeypatch.setenv("POOLSHIFT_URL", service.url)
    names: dict[str, Any] = {}
    assert len(PYTHON) > 6
    for block, shown in PYTHON:
        pattern = ".*?".join(re.escape(part) for part in shown.text.split("…"))
        found = printed(block, names)
        assert re.fullmatch(pattern, found, re.DOTALL), found
    names["client"].close()


def test_the_methods_are_those_of_the_client() -> None:
    """Each group with all of its methods."""
    client = Client()
    general = {"answer", "close", "listed", "streamed", "value", "with_options"}
    for row in table(section(PAGE, "## Methods"), "group"):
        (name,) = codes(row["group"])
        group = eval(name, {"client": client})
        methods = {one for one in dir(group) if not one.startswith("_") and callable(getattr(group, one))}
        assert set(codes(row["methods"])) == methods - general, name


def test_the_arguments_are_those_of_the_client() -> None:
    """Each with its default."""
    parameters = inspect.signature(Client).parameters
    rows = {codes(row["argument"])[0]: row["default"].strip("`") for row in table(PAGE, "argument")}
    assert rows.keys() == parameters.keys()
    for name in ("timeout_s", "connect_timeout_s", "max_connections", "verify"):
        assert float(rows[name].replace("True", "1")) == parameters[name].default
    assert f"`{Retry()}` is the default" in PAGE


def test_the_errors_without_an_answer_are_those_of_the_code() -> None:
    """Each subclass of `NoAnswer`."""
    named = {codes(row["class"])[0] for row in table(section(PAGE, "## Errors"), "class")}
    assert named == {kind.__name__ for kind in NoAnswer.__subclasses__()}


def test_everything_public_can_be_imported() -> None:
    """`__all__` is complete, and sorted."""
    assert all(hasattr(package, name) for name in package.__all__)
    public = {name for name, value in vars(package).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(package.__all__)
