"""Definitions as the service keeps them: what only a worker needs stays JSON.

An input's default and a program's saved state may hold any JSON. As Python objects they would take up to 25 times the
memory of their text, and their decoding would hold up the event loop.
"""

import msgspec

from poolshift.worker.definitions import Definition, Field, Signature


class _KeptField(Field, frozen=True, omit_defaults=True):
    default: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _KeptSignature(Signature, frozen=True, omit_defaults=True):
    inputs: tuple[_KeptField, ...]
    outputs: tuple[_KeptField, ...]


class _KeptDefinition(Definition, frozen=True, omit_defaults=True, eq=False, weakref=True):
    signature: _KeptSignature
    state: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


_decode = msgspec.json.Decoder(_KeptDefinition).decode
encode_definition = msgspec.json.Encoder().encode


def decode_definition(text: str | bytes) -> Definition:
    """Reads a definition whose defaults and state stay JSON; `encode_definition` writes the same text again."""
    return _decode(text)


def default_of(field: Field) -> msgspec.Raw | None:
    """An input's default as JSON; None if there is none."""
    return None if field.default is None or field.default is msgspec.UNSET else msgspec.Raw(_raw(field.default))


def has_state(definition: Definition) -> bool:
    """Tells if DSPy saved a state for this program."""
    return definition.state is not None and definition.state is not msgspec.UNSET  # type: ignore[comparison-overlap]


def _raw(default: object) -> msgspec.Raw | bytes:
    return default if isinstance(default, msgspec.Raw) else encode_definition(default)
