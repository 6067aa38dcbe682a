"""Python's types in DSPy's signatures: the JSON type of each, and the way from JSON to their values and back."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import dspy
import msgspec
import pydantic
from pydantic_core import to_jsonable_python

from poolshift.worker.definitions import Field
from poolshift.worker.errors import InvalidInputs, InvalidOutputs
from poolshift.worker.loading import EntrypointError
from poolshift.worker.types.annotated import is_plain, not_none
from poolshift.worker.types.encoding import plain
from poolshift.worker.types.fields import text_of
from poolshift.worker.types.misfit import Misfit, misfit_of_pydantic
from poolshift.worker.types.schemas import allows_null, type_of_schema


def _from_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


_IMAGE = Annotated[dspy.Image, pydantic.BeforeValidator(_from_url), pydantic.WithJsonSchema({"type": "string"})]
"""An image as a call has it: a URL, which DSPy hands on to the LM, or a data URI. Nothing is fetched here."""
_HISTORY = Annotated[
    dspy.History,
    pydantic.WithJsonSchema(
        {
            "type": "object",
            "required": ["messages"],
            "properties": {"messages": {"type": "array", "items": {"type": "object"}}},
            "additionalProperties": False,
        }
    ),
]
"""A history with a schema that no version of DSPy changes: both pools must derive the same signature."""
_OF_DSPY: Final[dict[Any, Any]] = {dspy.Image: _IMAGE, dspy.History: _HISTORY}


def input_of(name: str, annotation: Any, *, description: str | None, required: bool, default: Any = None) -> Field:
    """Makes the field that stands for an annotated input.

    Raises:
        EntrypointError: no JSON stands for the annotation.
    """
    field = _field(name, annotation, description, "validation")
    default = None if default is None else jsonable(default)
    return msgspec.structs.replace(field, required=required and field.required and default is None, default=default)


def output_of(name: str, annotation: Any, *, description: str | None) -> Field:
    """Makes the field that stands for an annotated output. Raises as `input_of`."""
    return _field(name, annotation, description, "serialization")


def _field(name: str, annotation: Any, description: str | None, mode: Literal["validation", "serialization"]) -> Field:
    try:
        schema = _adapter(annotation).json_schema(mode=mode)
    except (pydantic.errors.PydanticUserError, NameError) as error:
        raise _without_json(name, annotation, str(error).partition("\n")[0]) from None
    kind, is_required = type_of_schema(schema), not allows_null(schema)
    says_more = bool(schema.keys() - {"type", "title"}) and (kind == "any" or not is_plain(not_none(annotation)))
    return Field(name, kind, description, is_required, schema=schema if says_more else None)


def _without_json(name: str, annotation: Any, reason: str) -> EntrypointError:
    shown = getattr(annotation, "__name__", None) or repr(annotation)
    return EntrypointError(f"no field can stand for {name!r} of type {shown}: {reason}", at="signature")


class Arguments:
    """Turns the JSON of a program's inputs into the Python values that its annotations ask for."""

    def __init__(self, annotations: Mapping[str, Any]) -> None:
        """Takes the annotations by input; an input without one stays JSON. Raises EntrypointError."""
        self._adapters = _adapters(annotations)

    def convert(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Converts the inputs. Raises InvalidInputs, which names the first that does not fit."""
        return {name: self._value(name, value) for name, value in inputs.items()}

    def _value(self, name: str, value: Any) -> Any:
        adapter = self._adapters.get(name)
        if adapter is None:
            return value
        try:
            return adapter.validate_python(value)
        except (ValueError, TypeError) as error:
            raise InvalidInputs(text_of("inputs", name, _misfit(error)), field=name) from None


class Results:
    """Checks the outputs of a module against the annotations of its last predictor."""

    def __init__(self, annotations: Mapping[str, Any]) -> None:
        """Takes the annotations by output. Raises EntrypointError."""
        self._adapters = _adapters(annotations)

    def jsonable(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the module returned as JSON values. Raises InvalidOutputs, which names the first misfit."""
        return {name: self._jsonable(name, value) for name, value in outputs.items()}

    def _jsonable(self, name: str, value: Any) -> Any:
        as_json = jsonable(value)
        adapter = self._adapters.get(name)
        if adapter is None or _is_valid(adapter, value):
            return as_json
        try:  # numpy's scalars and the like, which pydantic does not know
            adapter.validate_python(as_json)
        except (ValueError, TypeError) as error:
            raise InvalidOutputs(text_of("outputs", name, _misfit(error)), field=name) from None
        return as_json


def _is_valid(adapter: pydantic.TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except (ValueError, TypeError):
        return False
    return True


def _adapters(annotations: Mapping[str, Any]) -> dict[str, pydantic.TypeAdapter[Any]]:
    adapters = {}
    for name, annotation in annotations.items():
        if annotation is not Any:
            try:
                adapters[name] = _adapter(annotation)
            except (pydantic.errors.PydanticUserError, NameError) as error:
                raise _without_json(name, annotation, str(error).partition("\n")[0]) from None
    return adapters


def _misfit(error: Exception) -> Misfit:
    if not isinstance(error, pydantic.ValidationError):
        return Misfit(str(error))
    return misfit_of_pydantic(error)


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_with_json(annotation))


def _with_json(annotation: Any) -> Any:
    """Gives DSPy's own types in an annotation their JSON, inside lists, dicts and unions too."""
    if _is_of_dspy(annotation):
        return _OF_DSPY[annotation]
    arguments = get_args(annotation)
    if not any(_has_type_of_dspy(one) for one in arguments):
        return annotation
    replaced = tuple(map(_with_json, arguments))
    if hasattr(annotation, "copy_with"):
        return annotation.copy_with(replaced)
    origin = get_origin(annotation)
    return _union(replaced) if not hasattr(origin, "__class_getitem__") else origin[replaced]


def _has_type_of_dspy(annotation: Any) -> bool:
    return _is_of_dspy(annotation) or any(map(_has_type_of_dspy, get_args(annotation)))


def _is_of_dspy(annotation: Any) -> bool:
    return any(annotation is one for one in _OF_DSPY)


def _union(members: Iterable[Any]) -> Any:
    united: Any = None
    for number, member in enumerate(members):
        united = member if number == 0 else united | member
    return united


def _fallback(value: Any) -> Any:
    return msgspec.to_builtins(value, str_keys=True, enc_hook=plain)


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
        return to_jsonable_python(value, fallback=_fallback)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidOutputs(f"outputs: {error}") from None
