"""JSON of objects that programs return from pydantic, numpy and pandas, none of which is imported for it."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec

from poolshift.worker.definitions import FieldType
from poolshift.worker.types.misfit import Misfit

_MAX_DEPTH = 16


def plain(value: Any) -> Any:
    """Turns a value that msgspec does not know into one that it knows.

    Raises:
        TypeError: the value has no JSON.
    """
    for base in type(value).__mro__:
        convert = _CONVERSIONS.get(_name(base))
        if convert is not None:
            return convert(value)
    name = type(value).__qualname__
    raise TypeError(f"{'a tuple as a key' if isinstance(value, tuple) else f'a value of type {name!r}'} has no JSON")


encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=plain).encode


def type_of_class(annotation: Any) -> FieldType | None:
    """The type of a signature that objects of a numpy or pandas class become; None for all other classes."""
    for base in getattr(annotation, "__mro__", ()):
        if found := _TYPES_OF_CLASSES.get(_name(base)):
            return found
    return None


def misfit_of(returned: Any, reason: str) -> Misfit:
    """Finds the innermost part of a returned value that has no JSON."""
    path: list[str | int] = []
    part = returned
    while len(path) < _MAX_DEPTH:
        for step, inner in _parts(part):
            if not _has_json(inner):
                path.append(step)
                part = inner
                break
        else:
            break
    return Misfit(reason, path)


def _parts(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from ((str(key), inner) for key, inner in value.items())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))


def _has_json(value: Any) -> bool:
    try:
        encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return True


def _name(kind: type) -> tuple[str, str]:
    """The top-level package and the name of a class."""
    return str(kind.__module__).partition(".")[0], kind.__name__


def _of_numpy_scalar(value: Any) -> Any:
    if value.dtype.kind == "c":
        raise TypeError("a complex number has no JSON")
    if value.dtype.kind == "f":
        return float(value)  # `item` of a long double is a long double
    return _of_array(value)


def _of_array(value: Any) -> Any:
    """Lists, down to Python's own objects. Times keep microseconds: a finer one would be a bare number."""
    kind = value.dtype.kind
    if kind in "mM" and value.dtype.name.endswith(("[ns]", "[ps]", "[fs]", "[as]")):
        value = value.astype(f"{kind}8[us]")
    return value.tolist()


def _of_frame(value: Any) -> Any:
    if not value.columns.is_unique:
        raise TypeError("a DataFrame whose columns have the same name has no JSON")
    return value.to_dict("records")


def _of_model(value: Any) -> Any:
    if not hasattr(type(value), "__pydantic_serializer__"):
        raise TypeError("a model of pydantic 1 has no JSON; return its `dict()`")
    return sys.modules["pydantic_core"].to_jsonable_python(value, by_alias=True, fallback=plain)


_CONVERSIONS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("numpy", "generic"): _of_numpy_scalar,
    ("numpy", "ndarray"): _of_array,
    ("pandas", "DataFrame"): _of_frame,
    ("pandas", "Series"): lambda value: value.tolist(),
    ("pandas", "Index"): lambda value: value.tolist(),
    ("pandas", "ExtensionArray"): lambda value: value.tolist(),
    ("pandas", "Period"): str,
    ("pandas", "Interval"): str,
    ("pandas", "NaTType"): lambda _: None,
    ("pandas", "NAType"): lambda _: None,
    ("pydantic", "BaseModel"): _of_model,
    # msgspec takes the classes themselves, and none that is derived from them.
    ("builtins", "str"): str.__str__,
    ("builtins", "int"): int.__int__,
    ("builtins", "float"): float.__float__,
    ("datetime", "datetime"): lambda value: value.isoformat(),
    ("datetime", "date"): lambda value: value.isoformat(),
    ("datetime", "timedelta"): lambda value: timedelta(value.days, value.seconds, value.microseconds),
}
_TYPES_OF_CLASSES: dict[tuple[str, str], FieldType] = {
    ("numpy", "ndarray"): "array",
    ("numpy", "bool"): "boolean",
    ("numpy", "bool_"): "boolean",
    ("numpy", "integer"): "integer",
    ("numpy", "floating"): "number",
    ("numpy", "str_"): "string",
    ("numpy", "datetime64"): "string",
    ("numpy", "timedelta64"): "string",
    ("pandas", "DataFrame"): "array",
    ("pandas", "Series"): "array",
    ("pandas", "Index"): "array",
    ("pandas", "ExtensionArray"): "array",
    ("pandas", "Timestamp"): "string",
    ("pandas", "Timedelta"): "string",
    ("pandas", "Period"): "string",
    ("pandas", "Interval"): "string",
}
