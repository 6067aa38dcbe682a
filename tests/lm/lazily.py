"""DSPy, imported by the first test that uses it: each process of a run collects all tests, and it takes seconds."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class Lazily:
    """A module that is imported when it is first asked for a name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # or else the import asks the network thrice
        return getattr(import_module(self._name), name)


dspy: Any = Lazily("dspy")
needs_dspy = pytest.mark.skipif(find_spec("dspy") is None, reason="the optional group is not installed")
