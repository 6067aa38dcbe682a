"""What is compiled can be: no class of it is one that mypyc gets wrong without a word. The build has its tools."""

import importlib
import inspect
import tomllib
from typing import Any

import msgspec
import pydantic
import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.support.service import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]


@pytest.mark.parametrize("name", MODULES)
def test_a_compiled_module_defines_no_struct_and_no_model(name: str) -> None:
    """Their metaclasses' options would be dropped: `forbid_unknown_fields`, say, and every typo would pass."""
    module = importlib.import_module(name)
    defined = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == name]
    assert not [one for one in defined if issubclass(one, (msgspec.Struct, pydantic.BaseModel))]


@pytest.mark.parametrize("is_on", [True, False])
def test_a_build_asks_for_what_it_compiles_with(monkeypatch: pytest.MonkeyPatch, *, is_on: bool) -> None:
    """`pip install .` fetches the compiler where the hook is on, and nothing where it is not."""
    monkeypatch.setenv("HATCH_BUILD_HOOK_ENABLE_CUSTOM", str(is_on).lower())
    wanted = {requirement.partition(">")[0] for requirement in WheelBuilder(str(ROOT)).config.dependencies}
    assert wanted == ({"mypy", "setuptools"} if is_on else set())
