"""Checks inputs against a signature, and makes the objects that the function's annotations ask for."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from poolshift.worker.definitions import Field
from poolshift.worker.errors import InvalidInputs, MalformedInputs, SignatureError
from poolshift.worker.types.annotated import AnnotatedType, PydanticType
from poolshift.worker.types.annotations import InputTypes
from poolshift.worker.types.encoding import encode
from poolshift.worker.types.fields import Fields, field_of, text_of
from poolshift.worker.types.misfit import Misfit

_UNREFINED = InputTypes()


class InputValidator(Fields):
    """The inputs of a signature."""

    def __init__(self, fields: tuple[Field, ...], types: InputTypes = _UNREFINED) -> None:
        """Raises SignatureError."""
        by_name = types.by_name
        of_pydantic = {name for name, kind in by_name.items() if isinstance(kind, PydanticType)}
        super().__init__(
            fields, {name: msgspec.Raw if name in of_pydantic else kind.annotation for name, kind in by_name.items()}
        )
        self._conversions = [(name, by_name[name].decode) for name in of_pydantic]
        kept = types.none_if_absent
        self._defaults = {one.name: one.default for one in fields if not one.required and one.name not in kept}
        self._made_defaults = _made_defaults(fields, by_name)
        self._is_refined = bool(self._checks or self._conversions or self._made_defaults)

    def inputs(self, raw: bytes | memoryview) -> dict[str, Any]:
        """The keyword arguments that `raw`, a JSON object, stands for; an absent one without a default is left out.

        Raises:
            InvalidInputs: they do not fit; `field` names the first that does not.
            MalformedInputs: not JSON.
        """
        try:
            values = msgspec.structs.astuple(self._decoder.decode(raw))
        except msgspec.ValidationError as error:
            raise InvalidInputs(f"inputs: {error}", field=field_of(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedInputs(f"inputs: {error}", started=False) from None
        arguments = dict(zip(self._names, values, strict=True))
        if self._is_refined:
            self._refine(arguments)
        for name, default in self._defaults.items():
            if arguments[name] is None:
                if default is None:
                    del arguments[name]
                else:
                    arguments[name] = default
        return arguments

    def _refine(self, arguments: dict[str, Any]) -> None:
        """Checks schemas, and makes objects of the inputs that pydantic decodes and of defaults."""
        name = ""
        try:
            for name, check in self._checks:
                if arguments[name] is not None or name not in self._optional:
                    check(arguments[name])
            for name, convert in self._conversions:
                raw = arguments[name]
                if raw is not None:
                    arguments[name] = None if name in self._optional and bytes(raw) == b"null" else convert(raw)
        except Misfit as misfit:
            raise InvalidInputs(text_of("inputs", name, misfit), field=name) from None
        for name, make in self._made_defaults.items():
            if arguments[name] is None:
                arguments[name] = make()


def _made_defaults(fields: tuple[Field, ...], types: Mapping[str, AnnotatedType]) -> dict[str, Callable[[], Any]]:
    """Makers of the defaults of inputs whose annotations ask for objects."""
    return {one.name: _maker(one, types[one.name]) for one in fields if one.default is not None and one.name in types}


def _maker(one: Field, kind: AnnotatedType) -> Callable[[], Any]:
    """Makes a new object of an input's default for each call, as calls may change it."""
    encoded = msgspec.Raw(encode(one.default))
    try:
        kind.decode(encoded)
    except Misfit as misfit:
        raise SignatureError(f"the default of field {one.name!r} does not fit: {misfit.reason}") from None
    return lambda: kind.decode(encoded)
