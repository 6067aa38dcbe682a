"""Examples of request and response bodies, composed of the examples of their fields."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_JSON = ("application/json", "application/problem+json")
_NULL = {"type": "null"}
_BY_FORMAT = {
    "date-time": "2026-11-24T09:30:00Z",
    "date": "2026-11-24",
    "uri": "http://127.0.0.1:8000",
    "password": "secret",
}
_BY_TYPE = {"string": "text", "integer": 1, "number": 1.5, "boolean": False, "null": None}


def add_examples(document: Schema) -> None:
    """Gives each JSON body of a document an example, unless it has one.

    An example that a model has itself (`examples`) comes first, then those of its fields. A request has no more than
    its required fields then, since optional ones may exclude each other.
    """
    schemas = document["components"]["schemas"]
    for content, is_request in _bodies(document):
        for media_type, media in content.items():
            if media_type.partition(";")[0] in _JSON and not {"example", "examples"} & media.keys():
                media["example"] = _Composer(schemas, only_required=is_request).example_of(media["schema"])


def _bodies(document: Schema) -> Iterator[tuple[dict[str, Schema], bool]]:
    for item in document["paths"].values():
        for operation in item.values():
            yield operation.get("requestBody", {}).get("content", {}), True
            for response in operation["responses"].values():
                yield response.get("content", {}), False


class _Composer:
    """Composes an example of a schema."""

    def __init__(self, schemas: dict[str, Schema], *, only_required: bool) -> None:
        self._schemas = schemas
        self._only_required = only_required

    def example_of(self, schema: Schema, within: tuple[str, ...] = ()) -> Any:
        """Returns a value that fits the schema; `within` are the models around it, which it does not open again."""
        if target := schema.get("$ref"):
            within = (*within, target)
            schema = {**self._schemas[target.rpartition("/")[2]], **_without_ref(schema)}
        for known in ("examples", "enum"):
            if values := schema.get(known):
                return values[0]
        for known in ("example", "const"):
            if known in schema:
                return schema[known]
        if schema.get("default") is not None:
            return schema["default"]
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return self._of_choices(choices, within)
        return self._of_type(schema, within)

    def _of_choices(self, choices: list[Schema], within: tuple[str, ...]) -> Any:
        """Returns a value of the first choice that is not null; null if that would be a model around it."""
        first = next((one for one in choices if one != _NULL), _NULL)
        return None if first.get("$ref") in within else self.example_of(first, within)

    def _of_type(self, schema: Schema, within: tuple[str, ...]) -> Any:
        kind = schema.get("type")
        if kind == "object":
            required = schema.get("required", ())
            return {
                name: self.example_of(field, within)
                for name, field in schema.get("properties", {}).items()
                if name in required or not self._only_required
            }
        if kind == "array":
            items = schema.get("prefixItems", [schema["items"]] if "items" in schema else [])
            return [self.example_of(item, within) for item in items]
        if kind in ("integer", "number"):
            return max(_BY_TYPE[kind], schema.get("minimum", 0))
        return _BY_FORMAT.get(schema.get("format", ""), _BY_TYPE.get(kind or "null"))


def _without_ref(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name != "$ref"}
