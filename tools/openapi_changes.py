"""Compares the OpenAPI document with that of the last release, in `docs/openapi.json`.

python -m tools.openapi_changes             prints what breaks a caller of the last release
python -m tools.openapi_changes --release   keeps the document, as a release does
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.application import create_app
from config.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / "docs/openapi.json"
CHANGELOG = ROOT / "CHANGELOG.md"
_METHODS = ("get", "put", "post", "patch", "delete")
_BREAKING = re.compile(r"^- \*\*Breaking\*\*:.*(?:\n  .*)*", re.MULTILINE)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """Facts of an operation that its callers rely on, a line each."""

    offers: set[str] = field(default_factory=set)
    """Inputs that it takes, and answers: a caller is broken if one of these is gone."""
    demands: dict[str, str] = field(default_factory=dict)
    """Duties of a caller, each with the member that it is about: a new one on a known member breaks a caller."""


def breaking_changes(before: Document, after: Document) -> Iterator[str]:
    """Yields what breaks a caller, each line beginning with the method and the path in backticks."""
    now = _operations(after)
    for name, then in _operations(before).items():
        if name not in now:
            yield f"`{name}` is gone"
            continue
        yield from (f"`{name}` no longer {fact}" for fact in sorted(then.offers - now[name].offers))
        known = {fact.rpartition(": ")[0] for fact in then.offers} | {""}
        for demand in sorted(now[name].demands.keys() - then.demands.keys()):
            if now[name].demands[demand] in known:
                yield f"`{name}` now {demand}"


def unannounced(changes: list[str], changelog: str) -> list[str]:
    """Returns the changes whose operation is in no entry `- **Breaking**:` of what is not yet released."""
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## [")[0]
    announced = " ".join(_BREAKING.findall(unreleased))
    return [change for change in changes if "`".join(change.split("`", 2)[:2]) + "`" not in announced]


def document() -> Document:
    """Returns the OpenAPI document of this checkout."""
    return create_app(Settings(_env_file=None)).openapi()


def _operations(document: Document) -> dict[str, Operation]:
    found = {}
    for path, methods in document["paths"].items():
        for method in _METHODS & methods.keys():
            found[f"{method.upper()} {path}"] = operation = Operation()
            _add_request(operation, methods[method], document)
            for status, response in methods[method]["responses"].items():
                for media_type, content in response.get("content", {}).items():
                    if status.startswith("2"):
                        operation.offers.add(f"answers {status} {media_type}: body")
                        _add_answer(operation, content.get("schema", {}), document, f"{status} {media_type}", ())
    return found


def _add_request(operation: Operation, described: dict[str, Any], document: Document) -> None:
    for parameter in described.get("parameters", ()):
        _add_input(operation, parameter["schema"], document, f"{parameter['in']} {parameter['name']}", ())
        if parameter.get("required"):
            operation.demands[f"requires {parameter['in']} {parameter['name']}"] = ""
    body = described.get("requestBody", {})
    for content in body.get("content", {}).values():
        _add_input(operation, content["schema"], document, "body", ())
    if body.get("required"):
        operation.demands["requires a body"] = ""


def _add_input(operation: Operation, schema: Any, document: Document, name: str, inside: tuple[str, ...]) -> None:
    """Adds the types and values that a member of a request may have."""
    for form in _forms(schema, document, inside):
        operation.offers.update(f"takes {name}: {kind}" for kind in form.kinds)
        for member, member_schema in form.schema.get("properties", {}).items():
            _add_input(operation, member_schema, document, f"{name}.{member}", form.inside)
        for member in form.schema.get("required", ()):
            operation.demands[f"requires {name}.{member}"] = f"takes {name}"
        if isinstance(items := form.schema.get("items"), dict):
            _add_input(operation, items, document, f"{name}[]", form.inside)


def _add_answer(operation: Operation, schema: Any, document: Document, name: str, inside: tuple[str, ...]) -> None:
    """Adds the members of an answer, and the types that a caller has to expect of each."""
    for form in _forms(schema, document, inside):
        operation.offers.add(f"answers {name}: member")
        kinds = [str(kind) for kind in form.kinds if not kind.startswith("value ")]  # new values are announced, no more
        operation.demands.update({f"answers {name} with {kind}": f"answers {name}" for kind in kinds})
        for member, member_schema in form.schema.get("properties", {}).items():
            _add_answer(operation, member_schema, document, f"{name}.{member}", form.inside)
            if member in form.schema.get("required", ()):
                operation.offers.add(f"answers {name}.{member}: always")
        if isinstance(items := form.schema.get("items"), dict):
            _add_answer(operation, items, document, f"{name}[]", form.inside)


@dataclass(frozen=True, slots=True)
class _Form:
    """One of the alternatives of a schema, without references."""

    schema: dict[str, Any]
    inside: tuple[str, ...]
    """The references that led there."""

    @property
    def kinds(self) -> list[str]:
        kinds = self.schema.get("type", "anything")
        values = self.schema.get("enum", [self.schema["const"]] if "const" in self.schema else [])
        return [f"value {value!r}" for value in values] or ([kinds] if isinstance(kinds, str) else kinds)


def _forms(schema: Any, document: Document, inside: tuple[str, ...]) -> Iterator[_Form]:
    if not isinstance(schema, dict):
        return
    if reference := schema.get("$ref"):
        if reference not in inside:  # a tree of itself has said all at its first level
            target = document["components"]["schemas"][reference.rpartition("/")[2]]
            yield from _forms(target, document, (*inside, reference))
    elif alternatives := [form for word in ("anyOf", "oneOf", "allOf") for form in schema.get(word, ())]:
        for alternative in alternatives:
            yield from _forms(alternative, document, inside)
    else:
        yield _Form(schema, inside)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", action="store_true")
    if parser.parse_args().release:
        RELEASED.write_text(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")
        return
    print("\n".join(breaking_changes(json.loads(RELEASED.read_text()), document())))


if __name__ == "__main__":
    main()
