"""Lays out the wheels of both distributions, and compiles their hot path with mypyc if `POOLSHIFT_COMPILE` is set.

A build hook of hatchling, which both `pyproject.toml` configure: `packages` says which folder of the checkout becomes
which one of the wheel, `modules` which modules are compiled together, `standalone` which ones each by itself
(docs/adr/0008). A compiled wheel is for one Python on one platform, and takes a C compiler and Python's headers:

    POOLSHIFT_COMPILE=1 pip wheel --no-deps .

`POOLSHIFT_OPT_LEVEL` is GCC's level of optimisation, 3 unless it is set.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_CHECKOUT = Path(__file__).resolve().parents[2]
_MYPY = (
    "--config-file=",  # `make lint` is what checks
    "--follow-imports=silent",
    "--ignore-missing-imports",
    "--no-site-packages",  # the same C whatever is installed beside it
)

_QUIET = "-Wno-misleading-indentation"
"""Spares GCC a warning that is of no use for generated C, and takes over half of a build."""

_FINDER = """\
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

FOLDERS = {folders!r}


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in FOLDERS:
            return None
        file = FOLDERS[name] + "/__init__.py"
        spec = ModuleSpec(name, SourceFileLoader(name, file), origin=file, is_package=True)
        spec.submodule_search_locations.append(FOLDERS[name])
        spec.has_location = True
        return spec


sys.meta_path.append(Finder)
"""


class BuildHook(BuildHookInterface[Any]):
    """Adds the packages of a distribution to its wheel, and their compiled twins, which Python prefers."""

    def dependencies(self) -> list[str]:
        """Names what only a compiled build needs."""
        return ["mypy>=2.4", "setuptools>=84.2"] if _compiles() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together.

        Raises:
            RuntimeError: `POOLSHIFT_COMPILE` is set for an editable install, which runs its sources.
        """
        self._scratch = tempfile.TemporaryDirectory(prefix="poolshift-build-")
        packages = {target: self._sources / source for target, source in self.config["packages"].items()}
        if version == "editable":
            if _compiles():
                raise RuntimeError("an editable install runs its sources: build a wheel to have them compiled")
            build_data["force_include_editable"].update(self._redirections(packages))
            return
        build_data["force_include"].update({str(source): target for target, source in packages.items()})
        if _compiles():
            build_data["force_include"].update(self._compiled())
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is there."""
        self._scratch.cleanup()

    @property
    def _sources(self) -> Path:
        """The folder that the sources are in: the checkout, or an unpacked sdist of either distribution."""
        root = Path(self.root)
        return root if (root / "PKG-INFO").exists() else _CHECKOUT

    def _redirections(self, packages: dict[str, Path]) -> Iterator[tuple[str, str]]:
        """The files of an editable install: each top-level package is importable, and no neighbour of its folder.

        Those of the package `editables` do the same, and take some 30 ms of each start of a Python, for their imports.
        """
        folders = {target: str(source) for target, source in packages.items() if "/" not in target}
        module = f"_editable_{self.metadata.core.name.replace('-', '_')}"
        contents = {f"{module}.py": _FINDER.format(folders=folders), f"{module}.pth": f"import {module}\n"}
        for name, content in contents.items():
            path = Path(self._scratch.name, name)
            path.write_text(content)
            yield str(path), name

    def _compiled(self) -> Iterator[tuple[str, str]]:
        """The compiled modules: those of the hot path in one library, so that they call each other directly."""
        os.chdir(self._sources)
        if modules := self.config.get("modules"):
            yield from self._libraries(modules, name="together", group="poolshift")
        for module in self.config.get("standalone", ()):
            yield from self._libraries([module], name=module, group=None)

    def _libraries(self, modules: Sequence[str], *, name: str, group: str | None) -> Iterator[tuple[str, str]]:
        from mypyc.build import mypycify  # noqa: PLC0415 - named by `dependencies`
        from setuptools import Distribution  # noqa: PLC0415

        built, intermediate = Path(self._scratch.name, name, "lib"), Path(self._scratch.name, name, "tmp")
        files = [module.replace(".", "/") + ".py" for module in modules]
        extensions = mypycify(
            [*_MYPY, f"--cache-dir={intermediate / 'mypy'}", *files],
            opt_level=os.environ.get("POOLSHIFT_OPT_LEVEL", "3"),
            debug_level="0",
            target_dir=str(intermediate / "c"),
            group_name=group,
        )
        for extension in extensions:
            extension.extra_compile_args.append(_QUIET)
        command = Distribution({"name": "poolshift", "ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(built), str(intermediate)
        command.ensure_finalized()
        command.run()
        for library in built.rglob("*.so"):
            yield str(library), f"{self.config.get('compiled_into', '')}{library.relative_to(built)}"


def _compiles() -> bool:
    return bool(os.environ.get("POOLSHIFT_COMPILE"))
