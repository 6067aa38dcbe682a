"""Definitions as the service keeps them: what only a worker needs stays JSON.

An input's default, a field's schema and a program's saved state may hold any JSON. As Python objects they would take
up to 25 times the memory of their text, and their decoding would hold up the event loop.
"""

import msgspec

from poolshift.worker.definitions import Definition, Field, Signature


class _KeptField(Field, frozen=True, omit_defaults=True):
    default: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


class _KeptSignature(Signature, frozen=True, omit_defaults=True):
    inputs: tuple[_KeptField, ...]
    outputs: tuple[_KeptField, ...]


class _KeptDefinition(Definition, frozen=True, omit_defaults=True, eq=False, weakref=True):
    signature: _KeptSignature
    state: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


class _Sharing(msgspec.Struct):
    """The member of a definition that any version of the service can read."""

    shared: bool = False


_decode_sharing = msgspec.json.Decoder(_Sharing).decode
_decode = msgspec.json.Decoder(_KeptDefinition).decode
encode_definition = msgspec.json.Encoder().encode


def decode_definition(text: str | bytes) -> Definition:
    """Reads a definition whose defaults and state stay JSON; `encode_definition` writes the same text again."""
    return _decode(text)


def is_shared(text: str) -> bool:
    """Tells if a definition, of a newer version too, lets other owners change its program."""
    return _decode_sharing(text).shared


def default_of(field: Field) -> msgspec.Raw | None:
    """An input's default as JSON; None if there is none."""
    return _raw(field.default)


def schema_of(field: Field) -> msgspec.Raw | None:
    """A field's JSON Schema as JSON; None if there is none."""
    return _raw(field.schema)


def has_state(definition: Definition) -> bool:
    """Tells if DSPy saved a state for this program."""
    return definition.state is not None and definition.state is not msgspec.UNSET  # type: ignore[comparison-overlap]


def _raw(value: object) -> msgspec.Raw | None:
    if value is None or value is msgspec.UNSET:
        return None
    return value if isinstance(value, msgspec.Raw) else msgspec.Raw(encode_definition(value))
