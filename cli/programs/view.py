"""A program as people read it."""

import json
from typing import Any

from cli.output import print_change, print_fields, print_json, when
from cli.programs.differences import USE, differences

_SHOWN = USE | {
    "id",
    "session_id",
    "owner",
    "shared",
    "program_type",
    "entrypoint",
    "instructions",
    "signature",
    "idempotent",
    "v2",
}
"""Members of a view that have a line of their own; any other has one if it is set."""


def show(program: dict[str, Any], *, as_json: bool) -> None:
    """Shows a program, and the members of V2's own definition that differ."""
    if as_json:
        print_json(program)
        return
    signature = program["signature"]
    print_fields(
        {
            "id": program["id"],
            "session": program["session_id"],
            "owner": program["owner"],
            "shared": program["shared"],
            "revision": program["revision"],
            "type": program["program_type"],
            "entrypoint": program["entrypoint"],
            "description": signature["description"],
            "instructions": program["instructions"],
            "inputs": ", ".join(_field(field) for field in signature["inputs"]) or None,
            "outputs": ", ".join(_field(field) for field in signature["outputs"]),
            "idempotent": program["idempotent"],
            **_others(program),
            "created": when(program["created_at"]),
            "executions": program["execution_count"],
            "last executed": when(program["last_executed_at"]),
        }
    )
    if program["v2"] is not None:
        _show_own(program, program["v2"])


def _show_own(program: dict[str, Any], own: dict[str, Any]) -> None:
    """Shows V2's own definition by its differences to the one of everyone else; saved states are not compared."""
    common = own.keys() & program.keys()
    mine, theirs = ({name: view[name] for name in own if name in common} for view in (own, program))
    changed = [line for one in differences(theirs, mine) for line in (one.member, *one.lines())]
    if own["has_state"]:
        changed.append("has a saved state")
    by = f" by {own['created_by']}" if own["created_by"] else ""
    print()
    print_change("V2 runs", f"its own definition, revision {own['revision']}{by} at {when(own['created_at'])}", changed)


def _others(program: dict[str, Any]) -> dict[str, Any]:
    """Returns the other members of a definition that are set, under their names in the API."""
    others = {name: value for name, value in program.items() if name not in _SHOWN and value not in (None, False, [])}
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in others.items()}


def _field(field: dict[str, Any]) -> str:
    default = f" = {json.dumps(field['default'])}" if field["default"] is not None else ""
    return f"{field['name']}{'' if field['required'] else '?'}: {field['type']}{default}"
