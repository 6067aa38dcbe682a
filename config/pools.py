"""The settings of a pool: those of both pools, and the same names with `V1_` or `V2_` for one of them alone."""

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

EngineName = Literal["session_pool", "session_pool_v2", "async_pool"]
VersionName = Literal["v1", "v2"]
Workers = Literal["local", "ray"]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PoolSize = Annotated[int, Field(ge=1, le=1024)]
Limit = Annotated[int, Field(ge=1)]
Concurrency = Annotated[int, Field(ge=1, le=4096)]


def listed(value: str) -> tuple[str, ...]:
    """The items of a comma-separated list."""
    return tuple(item for part in value.split(",") if (item := part.strip()))


def module_names(value: str) -> str:
    """Accepts a comma-separated list of modules.

    Raises:
        ValueError: names the first that is not the name of a module.
    """
    for name in value.split(","):
        if not all(part.isidentifier() for part in name.strip().split(".")):
            raise ValueError(f"{name.strip()!r} is not the name of a module")
    return value


def _module_names_or_none(value: str) -> str:
    return module_names(value) if value.strip() else ""


def _default_pool_size() -> int:
    return 2 * len(os.sched_getaffinity(0))


Interpreter = Annotated[str, Field(min_length=1, max_length=4096)]
Preload = Annotated[str, AfterValidator(_module_names_or_none)]


OF_CODE = ("engine", "workers", "python", "programs_dir", "worker_env_file")
"""The values of a specification that say what runs; the others say how much of it, and what is imported ahead."""
LIMITS = ("pool_size", "worker_concurrency", "worker_max_executions", "worker_max_rss_mb", "worker_max_age_s")
"""The values of a specification that say how much runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """All that makes a pool what it is, except for the language model: two pools may differ in any of it."""

    engine: EngineName
    workers: Workers = "local"
    """The place of the workers: this machine, or the nodes of a Ray cluster."""
    python: str | None = None
    """The interpreter of the workers, as a path or a name on `PATH`; None is the service's own."""
    programs_dir: str | None = None
    """The folder that is put before everything else on the workers' path."""
    worker_env_file: str | None = None
    """The dotenv file with more variables for the workers."""
    preload: tuple[str, ...] = ()
    """The modules that are imported once, ahead of all workers."""
    pool_size: int
    worker_concurrency: int = 64
    """The calls that a worker of the engine `async_pool` runs at once."""
    worker_max_executions: int | None = None
    worker_max_rss_mb: int | None = None
    worker_max_age_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The specification as JSON values; `from_json` reads them back."""
        return asdict(self) | {"preload": list(self.preload)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "PoolSpec":
        """Reads what `as_json` made. Values that this release does not know are left out.

        Raises:
            TypeError: a value is missing.
        """
        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        return cls(**kept | {"preload": tuple(kept.get("preload", ()))})


class PoolSettings(BaseSettings):
    """The settings that a pool can have of its own. Unset with a prefix, both pools have the unprefixed value."""

    engine: EngineName | None = None
    v1_engine: EngineName | None = None
    v2_engine: EngineName | None = None
    workers: Workers | None = None
    """The place of the workers: `local` is the service's machine, `ray` the nodes of a Ray cluster."""
    v1_workers: Workers | None = None
    v2_workers: Workers | None = None
    python: Interpreter | None = None
    """The interpreter that workers run on, such as that of a virtual environment of the user's."""
    v1_python: Interpreter | None = None
    v2_python: Interpreter | None = None
    programs_dir: Path | None = None
    """A folder that is put before everything else on the workers' path: a checkout of the programs."""
    v1_programs_dir: Path | None = None
    v2_programs_dir: Path | None = None
    worker_env_file: Path | None = None
    v1_worker_env_file: Path | None = None
    v2_worker_env_file: Path | None = None
    preload: Preload = ""
    """Modules, comma-separated, that are imported once, ahead of all workers, which share them."""
    v1_preload: Preload | None = None
    v2_preload: Preload | None = None
    pool_size: PoolSize = Field(default_factory=_default_pool_size)
    v1_pool_size: PoolSize | None = None
    v2_pool_size: PoolSize | None = None
    worker_concurrency: Concurrency = 64
    """The calls that a worker of the engine `async_pool` runs at once."""
    v1_worker_concurrency: Concurrency | None = None
    v2_worker_concurrency: Concurrency | None = None
    worker_max_executions: Limit | None = None
    v1_worker_max_executions: Limit | None = None
    v2_worker_max_executions: Limit | None = None
    worker_max_rss_mb: Limit | None = None
    v1_worker_max_rss_mb: Limit | None = None
    v2_worker_max_rss_mb: Limit | None = None
    worker_max_age_s: Seconds | None = None
    v1_worker_max_age_s: Seconds | None = None
    v2_worker_max_age_s: Seconds | None = None

    def pool(self, version: VersionName) -> PoolSpec:
        """The specification of one version's pool, as the environment has it."""
        default_engine: EngineName = "session_pool" if version == "v1" else "session_pool_v2"
        return PoolSpec(
            engine=self._of(version, "engine") or default_engine,
            workers=self._of(version, "workers") or "local",
            python=_absolute(self._of(version, "python")),
            programs_dir=_absolute_folder(self._of(version, "programs_dir")),
            worker_env_file=_absolute_folder(self._of(version, "worker_env_file")),
            preload=listed(self._of(version, "preload")),
            **{name: self._of(version, name) for name in LIMITS},
        )

    def variable(self, version: VersionName, name: str) -> str:
        """The variable that sets a value of one version's specification, or that would."""
        is_for_both = getattr(self, f"{version}_{name}") is None and getattr(self, name) is not None
        return name.upper() if is_for_both else f"{version}_{name}".upper()

    def setting_of_python(self, python: str | None) -> str | None:
        """Names the setting that has this interpreter; None if none has it, as after a rotation of long ago."""
        versions: tuple[VersionName, ...] = ("v2", "v1")
        if python is None:
            return None
        for version in versions:
            if _absolute(self._of(version, "python")) == python:
                return "PYTHON" if getattr(self, f"{version}_python") is None else f"{version.upper()}_PYTHON"
        return None

    def _of(self, version: VersionName, name: str) -> Any:
        own = getattr(self, f"{version}_{name}")
        return getattr(self, name) if own is None else own


def _absolute(python: str | None) -> str | None:
    """A path that stays the same in another current folder; a bare name is searched on `PATH` at each start."""
    return python if python is None or os.sep not in python else str(Path(python).absolute())


def _absolute_folder(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
