"""Differences between two views of a program, member by member."""

import difflib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

USE = frozenset({"revision", "created_at", "execution_count", "last_executed_at", "has_state"})
"""Members of a view that are not the definition's."""


class Difference(NamedTuple):
    """A member that changes. None is a member that is not there, or has no value."""

    member: str
    before: Any
    after: Any

    def lines(self) -> Iterator[str]:
        """The values, each line after `-` or `+`; of text with several lines those that change."""
        if isinstance(self.before, str) and isinstance(self.after, str) and "\n" in self.before + self.after:
            changed = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), n=1, lineterm="")
            yield from (f"{line[:1]} {line[1:]}" for line in list(changed)[2:] if not line.startswith("@@"))
            return
        for sign, value in (("-", self.before), ("+", self.after)):
            if value is not None:
                yield f"{sign} {json.dumps(value, ensure_ascii=False)}"


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    """Lists the members of the definition that two views of a program do not have in common."""
    old, new = (dict(_members(_definition(view))) for view in (before, after))
    return [
        Difference(member, old.get(member), new.get(member))
        for member in {**old, **new}
        if old.get(member) != new.get(member)
    ]


def state_difference(before: Any, after: Any) -> list[Difference]:
    """Compares saved states, without showing them: they may be of hundreds of kilobytes."""
    if before == after:
        return []
    old = None if before is None else "the saved state"
    new = None if after is None else "a saved state" if old is None else "another saved state"
    return [Difference("state", old, new)]


def _definition(view: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in view.items() if name not in USE}


def _members(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names each value by the way to it. The fields of a signature go by their names, whose order is a member too."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _members(member, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and _are_fields(value):
        yield name, [item["name"] for item in value]
        for item in value:
            rest = {key: member for key, member in item.items() if key != "name"}
            yield from _members(rest, f"{name}.{item['name']}")
    else:
        yield name, value


def _are_fields(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and "name" in item for item in items)
