"""Annotated types as the library that knows them decodes and checks them: msgspec, or pydantic for its own."""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from datetime import date, time, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, Union
from uuid import UUID

import msgspec

from poolshift.worker.definitions import FieldType
from poolshift.worker.types.misfit import Misfit, misfit_of_pydantic
from poolshift.worker.types.schemas import type_of_schema

_PYDANTIC = frozenset({"pydantic", "pydantic_core", "annotated_types"})
_PLAIN = frozenset({Any, object, list, dict, str, int, float, bool, type(None)})
_VALUES = (Enum, date, time, timedelta, UUID, bytes)
"""Kinds that JSON has as a string or a number; `datetime` is a `date`."""


class Unsupported(Exception):
    """An annotation for which no library decodes JSON."""


class AnnotatedType:
    """A type that msgspec knows."""

    def __init__(self, annotation: Any) -> None:
        """Raises Unsupported."""
        self.annotation: Any = Any if annotation is object else annotation
        try:
            self.schema = self._schema()
        except Exception as error:  # some of these libraries' errors derive from nothing in common
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise Unsupported(lines[-1] if isinstance(error, TypeError) else lines[0]) from None

    def _schema(self) -> dict[str, Any]:
        msgspec.json.Decoder(self.annotation)
        return msgspec.json.schema(self.annotation)

    def decode(self, raw: msgspec.Raw) -> Any:
        """The object that JSON stands for. Raises Misfit."""
        try:
            return msgspec.json.decode(raw, type=self.annotation)
        except msgspec.MsgspecError as error:
            raise Misfit(str(error)) from None

    @property
    def type(self) -> FieldType:
        """The type of a signature's field that this annotation belongs to."""
        return type_of_schema(self.schema)

    @property
    def output_schema(self) -> dict[str, Any]:
        """The JSON Schema of the type as an output."""
        return self.schema


class PydanticType(AnnotatedType):
    """A type that is one of pydantic's, or that contains one."""

    def _schema(self) -> dict[str, Any]:
        self._adapter = sys.modules["pydantic"].TypeAdapter(self.annotation)
        schema: dict[str, Any] = self._adapter.json_schema()
        return schema

    @property
    def output_schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = self._adapter.json_schema(mode="serialization")
        return schema

    def decode(self, raw: msgspec.Raw) -> Any:
        return self._checked(self._adapter.validate_json, bytes(raw))

    def jsonable(self, returned: Any) -> Any:
        """Checks a returned object, and turns it into what msgspec can encode. Raises Misfit."""
        found = self._checked(self._adapter.validate_python, returned)
        return self._adapter.dump_python(found, mode="json", by_alias=True)

    def _checked(self, validate: Any, value: Any) -> Any:
        try:
            return validate(value)
        except sys.modules["pydantic"].ValidationError as error:
            raise misfit_of_pydantic(error) from None


def annotated_type(annotation: Any) -> AnnotatedType:
    """Finds the library for an annotation. Raises Unsupported."""
    if "pydantic" in sys.modules and _needs_pydantic(annotation, set()):
        return PydanticType(annotation)
    return AnnotatedType(annotation)


def not_none(annotation: Any) -> Any:
    """`T` of `T | None`, and every other annotation as it is."""
    if typing.get_origin(annotation) in {Union, types.UnionType}:
        kept = [one for one in typing.get_args(annotation) if one is not type(None)]
        return kept[0] if len(kept) == 1 else annotation
    return annotation


def is_plain(annotation: Any) -> bool:
    """Says if an annotation says no more than a type of a signature: `list`, `dict[str, Any]`, `int | float`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {Union, types.UnionType}:
        return all(map(is_plain, arguments))
    if origin in {list, dict}:
        return all(one is Any or one is object or isinstance(one, typing.TypeVar) for one in arguments[-1:]) and (
            origin is list or not arguments or arguments[0] in {str, Any}
        )
    try:
        return annotation in _PLAIN
    except TypeError:  # not hashable, so an annotation of no kind that is known
        return False


def is_value(annotation: Any) -> bool:
    """Says if JSON has objects of this type as a string or a number: enumerations, literals, dates."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Literal:
        return True
    return isinstance(annotation, type) and issubclass(annotation, _VALUES)


def is_record(annotation: Any) -> bool:
    """Says if objects of this type have named members: a dataclass, a TypedDict, a model, a struct."""
    return isinstance(annotation, type) and (
        dataclasses.is_dataclass(annotation)
        or issubclass(annotation, msgspec.Struct)
        or _is_typed_dict(annotation)
        or any(_is_of_pydantic(base) for base in annotation.__mro__)
    )


def _needs_pydantic(annotation: Any, seen: set[int]) -> bool:
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if any(_is_of_pydantic(type(one)) for one in getattr(annotation, "__metadata__", ())):
        return True
    if isinstance(annotation, type) and (
        any(_is_of_pydantic(base) for base in annotation.__mro__) or hasattr(annotation, "__get_pydantic_core_schema__")
    ):
        return True
    inner = [*typing.get_args(annotation), *_members(annotation).values()]
    if hasattr(annotation, "__value__"):  # of a `type` statement
        inner.append(annotation.__value__)
    return any(_needs_pydantic(one, seen) for one in inner)


def _members(annotation: Any) -> Mapping[str, Any]:
    if not (dataclasses.is_dataclass(annotation) or _is_typed_dict(annotation) or hasattr(annotation, "_fields")):
        return {}
    try:
        return typing.get_type_hints(annotation, include_extras=True)
    except Exception:  # names that exist for type checkers alone; the library says so in its own words
        return {}


def _is_typed_dict(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, dict) and hasattr(annotation, "__total__")


def _is_of_pydantic(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] in _PYDANTIC or "__pydantic_validator__" in vars(kind)
