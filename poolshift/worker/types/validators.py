"""Builds the checks of a Python program's inputs and outputs, once per program."""

from collections.abc import Callable
from typing import Any

import msgspec

from poolshift.worker.definitions import Signature
from poolshift.worker.types.annotations import input_types, output_type
from poolshift.worker.types.inputs import InputValidator
from poolshift.worker.types.outputs import OutputValidator


def validators_of(signature: Signature, function: Callable[..., Any]) -> tuple[InputValidator, OutputValidator]:
    """The checks of a Python program, from its signature and from the annotations of its function.

    Raises:
        SignatureError: a field's schema cannot be checked.
    """
    inputs, outputs = signature.inputs, signature.outputs
    if signature.derived:  # its schemas describe the annotations, which are checked
        inputs = tuple(msgspec.structs.replace(one, schema=None) for one in inputs)
        outputs = tuple(msgspec.structs.replace(one, schema=None) for one in outputs)
    return (
        InputValidator(inputs, input_types(signature, function)),
        OutputValidator(outputs, output_type(signature, function)),
    )
