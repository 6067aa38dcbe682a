"""docs/cli.md: the table has each command, with options that it has."""

import re

import pytest

from cli.errors import ExitCode
from tests.support.commands import all_commands
from tests.support.pages import codes, page, section, table

PAGE = page("cli.md")
NAMED = [code for row in table(PAGE, "command") for code in codes(row["command"])]


COMMANDS = {f"poolshift {path}": command for path, command in all_commands().items()}


def plain(code: str) -> str:
    """A command of the page without the brackets around what may be left out."""
    return code.replace("[", "").replace("]", "")


def of(path: str) -> list[str]:
    """The page's lines for a command."""
    return [code for code in NAMED if f"{plain(code)} ".startswith(f"{path} ")]


@pytest.mark.parametrize("path", COMMANDS)
def test_each_command_is_on_the_page(path: str) -> None:
    """With options that it has, and with all that it needs."""
    options = {option for one in COMMANDS[path].params for option in (*one.opts, *one.secondary_opts)}
    needed = [parameter.opts[0] for parameter in COMMANDS[path].params if parameter.required]
    shown = of(path)
    assert shown, f"{path} is missing"
    for code in shown:
        named = set(re.findall(r"--[a-z0-9-]+", code))
        assert named <= options, named - options
    assert {option for option in needed if option.startswith("--")} <= set(re.findall(r"--[a-z0-9-]+", " ".join(shown)))


def test_no_command_is_made_up() -> None:
    """Each of the page is a command."""
    known = {code for path in COMMANDS for code in of(path)}
    assert set(NAMED) - known == {"poolshift --version", "poolshift COMMAND --help"}


def test_the_exit_codes_are_those_of_the_code() -> None:
    """And 130, which a shell makes of Ctrl-C."""
    rows = table(section(PAGE, "## For people and for scripts"), "exit code")
    assert [int(row["exit code"]) for row in rows] == [*ExitCode, 130]
