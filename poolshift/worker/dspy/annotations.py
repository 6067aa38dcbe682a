"""Python's types in DSPy's signatures: the JSON type of each, and the way from JSON to their values and back."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, get_args, get_origin

import dspy
import msgspec
import pydantic
from pydantic_core import to_jsonable_python

from poolshift.worker.definitions import Field, FieldType
from poolshift.worker.errors import InvalidInputs, InvalidOutputs
from poolshift.worker.loading import EntrypointError

_JSON_TYPES: Final[dict[type, FieldType]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}
_Schema = dict[str, Any]


def _from_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


_IMAGE = Annotated[dspy.Image, pydantic.BeforeValidator(_from_url), pydantic.WithJsonSchema({"type": "string"})]
"""An image as a call has it: a URL, which DSPy hands on to the LM, or a data URI. Nothing is fetched here."""


def field_of(name: str, annotation: Any, *, description: str | None, required: bool, default: Any = None) -> Field:
    """Makes the field that stands for an annotated input or output.

    Raises:
        EntrypointError: no single JSON type stands for the annotation.
    """
    try:
        schema = _adapter(annotation).json_schema()
    except (pydantic.errors.PydanticUserError, NameError) as error:
        raise _without_json(name, annotation, str(error).partition("\n")[0]) from None
    kinds = _kinds(schema, schema.get("$defs", {}))
    is_optional = None in kinds
    found = kinds - {None}
    if found == {"integer", "number"}:
        found = {"number"}
    if len(found) != 1:
        raise _without_json(name, annotation, "not one JSON type")
    (kind,) = found
    assert kind is not None
    default = None if default is None else jsonable(default)
    return Field(name, kind, description, required and not is_optional and default is None, default)


def _without_json(name: str, annotation: Any, reason: str) -> EntrypointError:
    shown = getattr(annotation, "__name__", None) or repr(annotation)
    return EntrypointError(f"no field can stand for {name!r} of type {shown}: {reason}", at="signature")


def _kinds(schema: _Schema, definitions: Mapping[str, _Schema]) -> set[FieldType | None]:
    """Lists the JSON types that a schema allows, None among them for null."""
    if (reference := schema.get("$ref")) is not None:
        return _kinds(definitions[reference.rpartition("/")[2]], definitions)
    for combination in ("anyOf", "oneOf", "allOf"):
        if combination in schema:
            return set[FieldType | None]().union(*(_kinds(one, definitions) for one in schema[combination]))
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {None if one == "null" else one for one in types}
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return {None if value is None else _JSON_TYPES[type(value)] for value in values}


class Arguments:
    """Turns the JSON of a program's inputs into the Python values that its annotations ask for."""

    def __init__(self, annotations: Mapping[str, Any]) -> None:
        """Takes the annotations by input; an input without one stays JSON. Raises EntrypointError."""
        self._adapters: dict[str, pydantic.TypeAdapter[Any]] = {}
        for name, annotation in annotations.items():
            if annotation is not Any:
                try:
                    self._adapters[name] = _adapter(annotation)
                except (pydantic.errors.PydanticUserError, NameError) as error:
                    raise _without_json(name, annotation, str(error).partition("\n")[0]) from None

    def convert(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Converts the inputs. Raises InvalidInputs, which names the first that does not fit."""
        return {name: self._value(name, value) for name, value in inputs.items()}

    def _value(self, name: str, value: Any) -> Any:
        adapter = self._adapters.get(name)
        if adapter is None:
            return value
        try:
            return adapter.validate_python(value)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = "".join(f".{part}" for part in first["loc"])
            raise InvalidInputs(f"inputs: {first['msg']} - at `$.{name}{place}`", field=name) from None
        except (ValueError, TypeError) as error:
            raise InvalidInputs(f"inputs: {error} - at `$.{name}`", field=name) from None


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_with_images(annotation))


def _with_images(annotation: Any) -> Any:
    """Replaces `dspy.Image` in an annotation, inside lists, dicts and unions too."""
    if annotation is dspy.Image:
        return _IMAGE
    arguments = get_args(annotation)
    if not any(_has_image(one) for one in arguments):
        return annotation
    replaced = tuple(map(_with_images, arguments))
    if hasattr(annotation, "copy_with"):
        return annotation.copy_with(replaced)
    origin = get_origin(annotation)
    return _union(replaced) if not hasattr(origin, "__class_getitem__") else origin[replaced]


def _has_image(annotation: Any) -> bool:
    return annotation is dspy.Image or any(map(_has_image, get_args(annotation)))


def _union(members: Iterable[Any]) -> Any:
    united: Any = None
    for number, member in enumerate(members):
        united = member if number == 0 else united | member
    return united


def jsonable(value: Any) -> Any:
    """Returns `value` as plain JSON values. Raises InvalidOutputs if it has none."""
    match value:
        case dspy.Image():
            return value.url
        case list() | tuple():
            return [jsonable(one) for one in value]
        case dict():
            return {name: jsonable(one) for name, one in value.items()}
    try:
        return to_jsonable_python(value, fallback=msgspec.to_builtins)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidOutputs(f"outputs: {error}") from None
