"""Breaking changes of the API: none since the last release that the changelog does not tell."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.documented import document
from tools.openapi_changes import CHANGELOG, RELEASED, breaking_changes, unannounced

Document = dict[str, Any]
NOW: Document = document()
EXECUTE = "`POST /programs/{program_id}/execute`"


def schema(changed: Document, name: str) -> dict[str, Any]:
    """A schema of the document."""
    found: dict[str, Any] = changed["components"]["schemas"][name]
    return found


def execute(changed: Document) -> dict[str, Any]:
    """The operation that runs a program."""
    found: dict[str, Any] = changed["paths"]["/programs/{program_id}/execute"]["post"]
    return found


def remove_operation(changed: Document) -> None:
    del changed["paths"]["/programs/{program_id}/execute"]["post"]


def remove_answered_member(changed: Document) -> None:
    del schema(changed, "ExecuteView")["properties"]["pool_version"]


def answer_member_now_and_then(changed: Document) -> None:
    schema(changed, "ExecuteView")["required"].remove("pool_version")


def answer_null(changed: Document) -> None:
    schema(changed, "ExecuteView")["properties"]["execution_id"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}


def remove_taken_member(changed: Document) -> None:
    del schema(changed, "ExecuteBody")["properties"]["session_id"]


def require_member(changed: Document) -> None:
    schema(changed, "ExecuteBody").setdefault("required", []).append("session_id")


def require_parameter(changed: Document) -> None:
    named = {"name": "x-new", "in": "header", "required": True, "schema": {"type": "string"}}
    execute(changed)["parameters"].append(named)


def remove_stream(changed: Document) -> None:
    del execute(changed)["responses"]["200"]["content"]["text/event-stream"]


BREAKING = [
    remove_operation,
    remove_answered_member,
    answer_member_now_and_then,
    answer_null,
    remove_taken_member,
    require_member,
    require_parameter,
    remove_stream,
]


def add_members(changed: Document) -> None:
    schema(changed, "ExecuteView")["properties"]["more"] = {"type": "string"}
    schema(changed, "ExecuteView")["required"].append("more")
    schema(changed, "ExecuteBody")["properties"]["more"] = {"$ref": "#/components/schemas/New"}
    changed["components"]["schemas"]["New"] = {
        "type": "object",
        "properties": {"inner": {"type": "string"}},
        "required": ["inner"],
    }


def add_operation(changed: Document) -> None:
    changed["paths"]["/new"] = {"post": execute(changed)}


def take_more(changed: Document) -> None:
    execute(changed)["parameters"].append({"name": "x-new", "in": "header", "schema": {"type": "string"}})
    schema(changed, "ExecuteBody")["properties"]["session_id"] = {}
    schema(changed, "ExecuteBody")["properties"]["session_id"]["anyOf"] = [
        *copy.deepcopy(NOW)["components"]["schemas"]["ExecuteBody"]["properties"]["session_id"].get("anyOf", ()),
        {"type": "integer"},
    ]


def test_what_breaks_callers_since_the_last_release_is_in_the_changelog() -> None:
    """Under *Unreleased*, as `- **Breaking**:` with the method and the path of each operation."""
    changes = list(breaking_changes(json.loads(RELEASED.read_text()), NOW))
    assert not unannounced(changes, CHANGELOG.read_text())


@pytest.mark.parametrize("change", BREAKING, ids=lambda change: change.__name__)
def test_it_breaks_a_caller(change: Callable[[Document], None]) -> None:
    """The line names the operation; an entry of the changelog is enough."""
    changed = copy.deepcopy(NOW)
    change(changed)
    changes = [line for line in breaking_changes(NOW, changed) if line.startswith(EXECUTE)]
    assert changes
    assert unannounced(changes, "## [Unreleased]\n\n- Something else.\n") == changes
    assert unannounced(changes, f"## [Unreleased]\n\n## [0.1.0]\n\n- **Breaking**: {EXECUTE}.\n") == changes
    assert not unannounced(changes, f"## [Unreleased]\n\n- **Breaking**: now\n  {EXECUTE} differs.\n\n## [0.1.0]\n")


@pytest.mark.parametrize("change", [add_members, add_operation, take_more], ids=lambda change: change.__name__)
def test_it_breaks_nobody(change: Callable[[Document], None]) -> None:
    """New operations and members, and inputs that the service takes in addition."""
    changed = copy.deepcopy(NOW)
    change(changed)
    assert not list(breaking_changes(NOW, changed))
