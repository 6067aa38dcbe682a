"""Compiled modules have no class that mypyc silently gets wrong."""

import importlib
import inspect
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from tests.support.service import ROOT


def build_hook(project: Path) -> dict[str, Any]:
    """The settings of a distribution's build hook; none beside a wheel, which has no sources."""
    if not project.exists():
        return {}
    hook: dict[str, Any] = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    return hook["custom"]  # type: ignore[no-any-return]


MODULES: list[str] = [
    *build_hook(ROOT / "pyproject.toml")["modules"],
    *build_hook(ROOT / "packaging" / "poolshift" / "pyproject.toml").get("standalone", ()),
]


@pytest.mark.parametrize("name", MODULES)
def test_a_compiled_module_defines_no_struct_and_no_model(name: str) -> None:
    """Their metaclasses' options would be dropped: `forbid_unknown_fields`, say, and every typo would pass."""
    module = importlib.import_module(name)
    defined = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == name]
    assert not [one for one in defined if issubclass(one, (msgspec.Struct, pydantic.BaseModel))]


@pytest.mark.parametrize("name", MODULES)
def test_a_compiled_class_adds_no_call_to_its_base(name: str) -> None:
    """An object that can be called has one more field, before all others: the base's methods would miss these."""
    module = importlib.import_module(name)
    for one in [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == name]:
        bases = [base for base in one.__mro__[1:] if base.__module__ in MODULES and "__init__" in vars(base)]
        adds_call = "__call__" in vars(one) and not all("__call__" in vars(base) for base in bases)
        assert not adds_call, f"{one.__qualname__} has __call__, and {bases} have not"
