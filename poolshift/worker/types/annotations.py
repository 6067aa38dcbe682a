"""The annotations of a program's function: a signature derived from them, and the types that refine a given one."""

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from poolshift.worker.definitions import Field, Signature
from poolshift.worker.errors import SignatureError
from poolshift.worker.types.annotated import (
    AnnotatedType,
    Unsupported,
    annotated_type,
    is_plain,
    is_record,
    is_value,
    not_none,
)
from poolshift.worker.types.encoding import type_of_class
from poolshift.worker.types.schemas import allows_null, type_of_schema

RESULT = "result"
"""The name of a derived output that is a value and not a record."""
_UNNAMED: dict[Any, str] = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional only",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of arguments",
    inspect.Parameter.VAR_KEYWORD: "takes any keyword arguments",
}


@dataclass(frozen=True)
class InputTypes:
    """The annotated types of inputs by name, and the inputs that are None, not left out, if a call has none."""

    by_name: Mapping[str, AnnotatedType] = field(default_factory=dict)
    none_if_absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OutputType:
    """The annotated type of the outputs: of all as one record, of the one output, or None if nothing is checked."""

    type: AnnotatedType | None = None
    is_record: bool = False
    is_value: bool = False
    """True if the function returns the one output itself, and never a mapping of it."""


@dataclass(frozen=True)
class _Annotations:
    parameters: Mapping[str, inspect.Parameter]
    hints: Mapping[str, Any]

    @property
    def returned(self) -> Any:
        """The annotation of the value that the function returns; of a generator, at its end.

        An async generator can return nothing: what it yields last is its outputs as well.
        """
        annotation = self.hints.get("return", Any)
        if typing.get_origin(annotation) is Generator:
            return (*typing.get_args(annotation), None, None)[2]
        if typing.get_origin(annotation) in {AsyncGenerator, AsyncIterator}:
            return (*typing.get_args(annotation), Any)[0]
        return annotation


def derive(function: Callable[..., Any], name: str) -> Signature:
    """The signature that the annotations of a function tell.

    Raises:
        SignatureError: they do not tell one; says which and why.
    """
    try:
        found = _annotations(function)
        inputs = tuple(_input(one, found.hints.get(one.name, Any)) for one in found.parameters.values())
        outputs = _outputs(found.returned)
    except Unsupported as error:
        raise SignatureError(f"no signature can be derived for {name}: {error}; give it as `signature`") from None
    return Signature(inputs, outputs, derived=True)


def input_types(signature: Signature, function: Callable[..., Any]) -> InputTypes:
    """The types that refine the inputs: all of a derived signature, otherwise where the annotation says more."""
    try:
        found = _annotations(function)
    except Unsupported:
        return InputTypes()
    refined = {one.name: kind for one in signature.inputs if (kind := _input_type(signature, one, found)) is not None}
    if not signature.derived:
        return InputTypes(refined)
    optional = {one.name for one in signature.inputs if not one.required} & found.parameters.keys()
    return InputTypes(refined, frozenset(name for name in optional if _has_no_default(found.parameters[name])))


def _input_type(signature: Signature, one: Field, found: _Annotations) -> AnnotatedType | None:
    annotation = found.hints.get(one.name, Any)
    kind = _type_or_none(annotation if one.required else not_none(annotation))
    return kind if kind is not None and (signature.derived or _refines(kind, one)) else None


def output_type(signature: Signature, function: Callable[..., Any]) -> OutputType:
    """The type that the outputs are checked against, beside their fields."""
    names = {one.name for one in signature.outputs}
    try:
        annotation = _annotations(function).returned
    except Unsupported:
        annotation = Any
    kind = _type_or_none(annotation)
    if kind is not None and (signature.derived or len(names) > 1) and names <= _members(annotation, kind).keys():
        return OutputType(kind, is_record=True)
    if len(names) > 1:
        return OutputType()
    (one,) = signature.outputs
    if kind is not None and not signature.derived:
        # A mapping may be that of the outputs, and its annotation the mapping's.
        kind = kind if typing.get_origin(annotation) is not dict and _refines(kind, one) else None
    return OutputType(kind, is_value=signature.derived)


def _annotations(function: Callable[..., Any]) -> _Annotations:
    try:
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except Exception as error:  # an annotation is an expression of the program's
        raise Unsupported(f"its annotations cannot be evaluated: {error}") from None
    return _Annotations(parameters, hints)


def _type_or_none(annotation: Any) -> AnnotatedType | None:
    try:
        return annotated_type(annotation)
    except Unsupported:
        return None


def _refines(kind: AnnotatedType, one: Field) -> bool:
    """Says if an annotation says more than the field of a given signature, and nothing else than it."""
    inner = not_none(kind.annotation)
    if one.schema is not None or is_plain(inner):
        return False
    if one.type in {"array", "object"} or is_value(inner):
        return kind.type == one.type
    return one.type == "any"


def _input(parameter: inspect.Parameter, annotation: Any) -> Field:
    place = f"parameter `{parameter.name}`"
    if (fault := _UNNAMED.get(parameter.kind)) is not None:
        raise Unsupported(f"{place} {fault}")
    kind = _supported(annotation, place)
    is_required = _has_no_default(parameter) and not allows_null(kind.schema)
    return _field(parameter.name, kind.schema, is_required=is_required)


def _outputs(annotation: Any) -> tuple[Field, ...]:
    if (of_class := type_of_class(typing.get_origin(annotation) or annotation)) is not None:
        return (Field(RESULT, of_class),)
    if typing.get_origin(annotation) is Iterator:
        raise Unsupported("an iterator does not tell what is returned at its end: `Generator[..., ..., T]` does")
    kind = _supported(annotation, "the returned value")
    schema = kind.output_schema
    members = _members(annotation, kind)
    if not members:
        return (_field(RESULT, schema, is_required=not allows_null(schema)),)
    required = _resolved(schema).get("required", ())
    parts = {name: _with_definitions(part, schema) for name, part in members.items()}
    return tuple(
        _field(name, part, is_required=name in required and not allows_null(part)) for name, part in parts.items()
    )


def _supported(annotation: Any, place: str) -> AnnotatedType:
    try:
        return annotated_type(annotation)
    except Unsupported as error:
        raise Unsupported(f"{place}: {error}") from None


def _field(name: str, schema: dict[str, Any], *, is_required: bool) -> Field:
    kind = type_of_schema(schema)
    says_more = bool(schema.keys() - {"type", "title", "default"}) or (kind == "any" and bool(schema))
    return Field(name, kind, required=is_required, schema=schema if says_more else None)


def _members(annotation: Any, kind: AnnotatedType) -> dict[str, Any]:
    """The schemas of a record's members by name; none of any other type."""
    schema = _resolved(kind.output_schema)
    return schema.get("properties", {}) if is_record(annotation) and schema.get("type") == "object" else {}


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that a schema refers to, or the schema itself."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    definition: dict[str, Any] = schema.get("$defs", {}).get(name, schema)
    return definition


def _with_definitions(part: dict[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a schema, with the definitions that it refers to."""
    needed: dict[str, Any] = {}
    waiting: list[Any] = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            name = str(one.get("$ref", "")).removeprefix("#/$defs/")
            if name in whole.get("$defs", {}) and name not in needed:
                needed[name] = whole["$defs"][name]
                waiting.append(needed[name])
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return {**part, "$defs": needed} if needed else part


def _has_no_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty
