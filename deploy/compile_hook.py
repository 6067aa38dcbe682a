"""Compiles what every call goes through, with mypyc, into the wheel (docs/adr/0007).

A build hook of hatchling that is off unless asked for, since a wheel of it is for one Python on one platform:

    HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip wheel --no-deps .

It needs a C compiler and Python's headers.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MYPY = (
    "--config-file=",  # `make lint` is what checks
    "--follow-imports=silent",
    "--ignore-missing-imports",
    "--no-site-packages",  # the same C whatever is installed beside it
)


class CompileHook(BuildHookInterface[Any]):
    """Adds a compiled twin to each of the modules that `pyproject.toml` names: Python prefers it to the source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together.

        Raises:
            RuntimeError: this is an editable install, whose sources would no longer be what runs.
        """
        if version == "editable":
            raise RuntimeError("an editable install runs its sources: build a wheel to have them compiled")
        # Neither is there unless the hook is on (`dependencies` in pyproject.toml).
        from mypyc.build import mypycify  # noqa: PLC0415
        from setuptools import Distribution  # noqa: PLC0415

        build = TemporaryDirectory(prefix="poolshift-compile-")
        self._build = build
        libraries, intermediate = Path(build.name, "lib"), Path(build.name, "tmp")
        os.chdir(self.root)
        modules = [name.replace(".", "/") + ".py" for name in self.config["modules"]]
        arguments = [*_MYPY, f"--cache-dir={intermediate / 'mypy'}", *modules]
        extensions = mypycify(
            arguments, opt_level="3", debug_level="0", target_dir=str(intermediate / "c"), group_name="poolshift"
        )
        distribution = Distribution({"name": "poolshift", "ext_modules": extensions})
        command = distribution.get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(libraries), str(intermediate)
        command.ensure_finalized()
        command.run()
        for library in libraries.rglob("*.so"):
            build_data["force_include"][str(library)] = str(library.relative_to(libraries))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is there."""
        self._build.cleanup()
