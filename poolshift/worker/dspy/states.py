"""The state of an optimized module, as DSPy's `save` writes it."""

from collections.abc import Mapping
from typing import Any

import dspy
import msgspec

from poolshift.worker.exception_text import describe
from poolshift.worker.loading import EntrypointError


class SavedSignature(msgspec.Struct):
    """The prompt of a predictor: its instructions and the descriptions of its fields."""

    instructions: str
    fields: list[dict[str, str]]


class SavedPredict(msgspec.Struct):
    """A predictor as DSPy's `save` writes it, without its LM and without the parts that only an optimizer needs."""

    signature: SavedSignature
    demos: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}


def restore(module: dspy.Module, state: Mapping[str, Any]) -> None:
    """Loads a saved state into a module by its `load_state`.

    The predictors get their instructions, descriptions and demonstrations, and nothing else: a saved LM or
    configuration could send the session's key to an address that the state names.

    Raises:
        EntrypointError: the state is not one of such a module.
    """
    safe = dict(state)
    for name, predictor in module.named_predictors():
        if name not in state:
            raise EntrypointError(f"the state has nothing of the module's predictor {name!r}", at="state")
        try:
            saved = msgspec.convert(state[name], SavedPredict)
        except msgspec.ValidationError as error:
            raise EntrypointError(f"not what DSPy saves of {name!r}: {error}", at="state") from None
        if len(saved.signature.fields) != len(predictor.signature.fields):
            raise EntrypointError(f"the saved signature of {name!r} has other fields than the module's", at="state")
        safe[name] = {**msgspec.to_builtins(saved), "traces": [], "train": [], "lm": None}
    try:
        module.load_state(safe)
    except Exception as error:
        raise EntrypointError(f"not what DSPy saves of such a module: {describe(error).detail}", at="state") from None
