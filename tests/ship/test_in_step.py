"""Chart, image and settings name the same things. These need no tool and run with the other tests."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

from config.settings import Settings
from tests.support.service import ROOT

# What the chart sets from values of its own.
_FROM_OTHER_VALUES = {
    "ALLOW_ANONYMOUS",
    "API_KEYS_FILE",
    "CANARY_PERCENT",
    "DATABASE_URL",
    "HOST",
    "LM_API_BASE",
    "LM_API_KEY",
    "LM_MODEL",
    "POOL_SIZE",
    "PORT",
    "RAY_ADDRESS",
    "ROLLOUT_FILE",
    "ROLLOUT_PLAN_FILE",
    "V1_POOL_SIZE",
    "V2_POOL_SIZE",
}
_PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_chart_knows_every_setting() -> None:
    """A new setting can be set in the chart, and the chart sets none that there is not."""
    schema = json.loads((ROOT / "helm/values.schema.json").read_text())
    configurable = set(schema["properties"]["config"]["properties"])
    settings = {name.upper() for name in Settings.model_fields}
    assert configurable == settings - _FROM_OTHER_VALUES


def test_values_and_their_schema_have_the_same_names() -> None:
    """No value is without a rule, no rule without a value; `global` is Helm's."""
    schema = json.loads((ROOT / "helm/values.schema.json").read_text())
    values = yaml.safe_load((ROOT / "helm/values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)


def test_the_image_is_made_of_every_package() -> None:
    """Every package of the wheel gets past .dockerignore."""
    let_in = re.findall(r"^!(\w+)/$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    hook: dict[str, Any] = _PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    packages = [*{source.partition("/")[0] for source in hook["packages"].values()}, "poolshift"]
    assert set(packages) <= set(let_in)


def test_every_optional_group_can_be_in_an_image() -> None:
    """`make image EXTRAS=GROUP` has a lock to go by (requirements/lock.sh)."""
    groups: dict[str, list[str]] = _PROJECT["project"]["optional-dependencies"]
    for group in groups.keys() - {"dev"}:
        assert (ROOT / f"requirements/{group}.txt").exists(), group


def test_every_lock_has_hashes_and_names_no_index() -> None:
    """Installed packages are the locked ones, from any index that a machine uses."""
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        pins = re.findall(r"^[a-z0-9][^\n]*==[^\n]*(?:\n    --hash=[^\n]*)*", text, re.MULTILINE)
        assert pins, lock.name
        assert all("--hash=sha256:" in pin for pin in pins), lock.name
        assert "://" not in text, lock.name


def test_what_compose_mounts_is_there() -> None:
    """Each part of this repository that a container is given exists, and the dashboards lie where they are sought."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounts = [mount.split(":") for service in compose["services"].values() for mount in service.get("volumes", [])]
    from_here = {Path(target): ROOT / source for source, target, *_ in mounts if source.startswith("./")}
    for target, source in from_here.items():
        assert source.exists(), f"{source} for {target}"
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/poolshift.yaml").read_text())
    assert Path(provider["providers"][0]["options"]["path"]) in from_here


@pytest.mark.parametrize("is_on", [True, False])
def test_a_build_asks_for_what_it_compiles_with(monkeypatch: pytest.MonkeyPatch, *, is_on: bool) -> None:
    """`pip install .` fetches the compiler if the wheel is to be compiled, and nothing otherwise."""
    monkeypatch.setenv("POOLSHIFT_COMPILE", "1" if is_on else "")
    wanted = {requirement.partition(">")[0] for requirement in WheelBuilder(str(ROOT)).config.dependencies}
    assert wanted == ({"mypy", "setuptools"} if is_on else set())
