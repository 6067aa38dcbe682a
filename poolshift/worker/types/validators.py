"""Builds the checks of a Python program's inputs and outputs, once per program."""

from collections.abc import Callable
from typing import Any

from poolshift.worker.definitions import Signature
from poolshift.worker.types.annotations import input_types, output_type
from poolshift.worker.types.fields import checked_by_schemas
from poolshift.worker.types.inputs import InputValidator
from poolshift.worker.types.outputs import OutputValidator


def validators_of(signature: Signature, function: Callable[..., Any]) -> tuple[InputValidator, OutputValidator]:
    """The checks of a Python program, from its signature and from the annotations of its function.

    Raises:
        SignatureError: a field's schema cannot be checked.
    """
    checked = checked_by_schemas(signature)
    return (
        InputValidator(checked.inputs, input_types(signature, function)),
        OutputValidator(checked.outputs, output_type(signature, function)),
    )
