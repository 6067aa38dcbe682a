"""Compiled modules have no class that mypyc silently gets wrong."""

import importlib
import inspect
import tomllib
from typing import Any

import msgspec
import pydantic
import pytest

from tests.support.service import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]


@pytest.mark.parametrize("name", MODULES)
def test_a_compiled_module_defines_no_struct_and_no_model(name: str) -> None:
    """Their metaclasses' options would be dropped: `forbid_unknown_fields`, say, and every typo would pass."""
    module = importlib.import_module(name)
    defined = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == name]
    assert not [one for one in defined if issubclass(one, (msgspec.Struct, pydantic.BaseModel))]
