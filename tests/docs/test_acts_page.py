"""docs/acts.md: every door in the code that moves traffic or removes something has its row, and every row its door."""

import ast
import inspect
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest
import typer
from starlette.routing import Route
from typer.core import TyperGroup

from app.console import actions
from app.console.headers import PREFIX
from app.console.routes import router as console
from cli.main import app
from config.settings import Settings
from routing.rollout.model import Source
from tests.support.documented import document
from tests.support.pages import codes, page, section, table

PAGE = page("acts.md")
ROWS = [
    row
    for heading in ("## Acts that move traffic", "## Acts that change or remove what others use")
    for row in table(section(PAGE, heading), "act")
]
ACTS = {door for row in ROWS for door in codes(row["by"])}
NO_ACTS = set(codes(section(PAGE, "## What is no act")))
MOVING = frozenset(
    """
    CANARY_PERCENT CANARY_SALT POOL_VERSION POOLS ROLLOUT_FILE ROLLOUT_FLAG ROLLOUT_PLAN_FILE SHADOW_PERCENT V2_PYTHON
    """.split()
)
"""Settings that no page may call harmless."""


def calls() -> set[str]:
    """Every call of the API that may change something."""
    return {
        f"{method.upper()} {path}"
        for path, operations in document()["paths"].items()
        for method in operations.keys() - {"get", "head", "options", "parameters"}
    }


def commands() -> set[str]:
    """Every command without subcommands."""

    def leaves(command: Any, words: tuple[str, ...]) -> Iterator[str]:
        if isinstance(command, TyperGroup):
            context = typer.Context(command)
            for name in command.list_commands(context):
                yield from leaves(command.get_command(context, name), (*words, name))
        else:
            yield " ".join(words)

    return set(leaves(typer.main.get_command(app), ("poolshift",)))


def forms() -> set[str]:
    """Every form that the console takes; of the plan's, each verb."""
    routes = [route for route in console.routes if isinstance(route, Route)]
    posts = {route.path for route in routes if "POST" in (route.methods or ())}
    found = {f"{PREFIX}{path.removeprefix(PREFIX)}" for path in posts}
    plan = f"{PREFIX}/plan"
    assert plan in found
    return found - {plan} | {f"{plan} {verb}" for verb in verbs()}


def verbs() -> list[str]:
    """Moves of a plan that a person can ask for."""
    moves = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(actions)))
        if isinstance(node, ast.Dict) and ast.unparse(node).startswith("{'start': ")
    ]
    (move,) = moves
    return [ast.literal_eval(key) for key in move.keys if key is not None]


def doors(kind: str, named: set[str]) -> set[str]:
    """The doors of a kind among those that the page names, a command without its options."""
    found = {door.partition(" --")[0] for door in named if re.match(kind, door)}
    assert found
    return found


@pytest.mark.parametrize(
    ("kind", "found"),
    [(r"[A-Z]+ /", calls()), ("poolshift ", commands()), (f"{PREFIX}/", forms())],
    ids=["calls", "commands", "forms"],
)
def test_every_door_has_its_row_or_is_no_act(kind: str, found: set[str]) -> None:
    """The page names what is there, all of it, and nothing twice."""
    acts, others = doors(kind, ACTS), doors(kind, NO_ACTS)
    assert acts | others == found
    assert not acts & others


def test_every_setting_has_its_row_or_moves_nothing() -> None:
    """By its name or by a pattern with `*`; a pattern that fits none is a slip."""
    names = {name.upper() for name in Settings.model_fields}
    of_acts, others = (
        {door for door in named if re.fullmatch(r"[A-Z*][A-Z0-9_*]+", door) and not door.startswith("SIG")}
        for named in (ACTS, NO_ACTS)
    )
    for pattern in of_acts | others:
        assert any(fnmatchcase(name, pattern) for name in names), pattern
    for name in names:
        acts = [one for one in of_acts if fnmatchcase(name, one)]
        rest = [one for one in others if fnmatchcase(name, one)]
        assert acts or rest, f"{name} has no row"
        assert not acts or not rest, f"{name} is both: {acts}, {rest}"
        assert acts or name not in MOVING, name


def test_every_source_of_a_change_is_told() -> None:
    """Acts of the service itself, with their evidence and their undo."""
    rows = table(section(PAGE, "## Acts of the service itself"), "source")
    assert [codes(row["source"])[0] for row in rows] == [source.value for source in Source]
    assert all(row["act"] and row["needs"] and row["undo"] for row in rows)


def test_every_act_says_what_it_needs_and_how_it_is_undone() -> None:
    """No cell is empty: an act that nothing tells, refuses or undoes says so."""
    assert len({row["act"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert all(row.values()), row["act"]


def test_the_commands_in_the_undos_are_there() -> None:
    """An undo that is no command would help nobody."""
    undos = [code for row in ROWS for code in codes(row["undo"]) if code.startswith("poolshift ")]
    named = {" ".join(word for word in undo.split() if not word.startswith("--")) for undo in undos}
    assert named
    assert named <= commands()
