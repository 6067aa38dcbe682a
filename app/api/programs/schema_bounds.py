"""Bounds of a field's JSON Schema; a worker compiles it when the program is created."""

import json
from collections.abc import Iterator
from typing import Any

from poolshift.worker.types.schemas import DIALECT

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 64
_REFERENCES = ("$ref", "$dynamicRef")
_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are data: what looks like a reference there is not one."""


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for a schema that is too large or deep, of another draft, or that refers to elsewhere."""
    for depth, part in _parts(schema):
        if depth > MAX_SCHEMA_DEPTH:
            raise ValueError(f"a schema has at most {MAX_SCHEMA_DEPTH} levels")
        for keyword in _REFERENCES:
            target = part.get(keyword)
            if isinstance(target, str) and not target.startswith("#"):
                raise ValueError(f"a `{keyword}` stays inside its schema, as `#/$defs/item`, got {target[:256]!r}")
    if (dialect := schema.get("$schema", DIALECT)) not in {DIALECT, f"{DIALECT}#"}:
        raise ValueError(f"a schema is one of draft 2020-12, got `$schema` {str(dialect)[:256]!r}")
    if len(json.dumps(schema, ensure_ascii=False).encode(errors="surrogatepass")) > MAX_SCHEMA_BYTES:
        raise ValueError(f"the schema is over {MAX_SCHEMA_BYTES} bytes")
    return schema


def _parts(schema: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each object of a schema with its depth, without recursion."""
    waiting: list[tuple[int, Any]] = [(1, schema)]
    while waiting:
        depth, part = waiting.pop()
        if isinstance(part, dict):
            yield depth, part
            waiting += [(depth + 1, inner) for keyword, inner in part.items() if keyword not in _DATA]
        elif isinstance(part, list):
            waiting += [(depth + 1, inner) for inner in part]
