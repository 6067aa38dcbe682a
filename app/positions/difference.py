"""Tells what V2's pool changes against V1's: Python, packages, code, engine, language model and limits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from config.pools import LIMITS, PoolSpec

PYTHON = "python"
LEADING_PACKAGES = ("dspy", "msgspec")
"""Packages that the summary names although others differ too."""
NAMED_PACKAGES = 3
"""More packages that differ are counted, not named."""
NAMED_PROGRAMS = 3
"""More programs with a definition of V2's own are counted, not named."""
_INTERPRETER, _PROGRAMS = "interpreter", "programs at"
_ABSENT = {PYTHON: "unknown", _PROGRAMS: "unknown", _INTERPRETER: "the service's"}
"""Words for what a pool has not; "none" for all else."""


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """A pool as it is: its specification, and what its interpreter and its zygote say."""

    spec: PoolSpec
    python: str | None
    """The version of the workers' Python; None if the interpreter cannot run workers."""
    packages: Mapping[str, str]
    programs_revision: str | None
    lm: str | None
    """The model that programs use, if the service has one."""
    lm_settings: Mapping[str, str] = field(default_factory=dict)
    """The other settings of the model that are set, by their name in `PUT /lm`."""
    variables: str = ""
    """A digest of the variables of `WORKER_ENV_FILE`. No view shows it, since they may be secrets."""
    own_definitions: Sequence[str] = ()
    """The programs of which the version runs a definition of its own."""
    programs_commit: str | None = None
    """The git commit of the programs' code, with `-dirty` if the code differs from it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs between the pools; None is absent or unknown."""

    what: str
    v1: str | None
    v2: str | None

    def __str__(self) -> str:
        absent = _ABSENT.get(self.what, "none")
        return f"{self.what} {self.v1 or absent} → {self.v2 or absent}"


@dataclass(frozen=True, slots=True)
class PoolDifference:
    """All that V2 changes, without an order of importance among packages."""

    changes: tuple[Change, ...]
    packages: tuple[Change, ...]
    package_count: int
    """The packages of both pools together."""

    @property
    def summary(self) -> str:
        """The difference in one line."""
        told = [str(change) for change in self.changes]
        leading = [one for one in self.packages if one.what in LEADING_PACKAGES]
        named = self.packages if len(self.packages) <= NAMED_PACKAGES else leading
        packages = [str(change) for change in named]
        if len(named) < len(self.packages):
            packages.append(f"{len(self.packages)} of {self.package_count} packages")
        behind_python = int(bool(self.changes) and self.changes[0].what == PYTHON)
        told[behind_python:behind_python] = packages
        return "; ".join(told) or "nothing"


def difference(v1: PoolIdentity, v2: PoolIdentity) -> PoolDifference:
    """Compares two pools."""
    names = sorted({*v1.packages, *v2.packages})
    is_known = v1.python is not None and v2.python is not None
    packages = [Change(name, v1.packages.get(name), v2.packages.get(name)) for name in names] if is_known else []
    return PoolDifference(
        changes=tuple(change for change in _changes(v1, v2) if change.v1 != change.v2),
        packages=tuple(change for change in packages if change.v1 != change.v2),
        package_count=len(names),
    )


def _changes(v1: PoolIdentity, v2: PoolIdentity) -> Iterator[Change]:
    yield Change(PYTHON, v1.python, v2.python)
    yield Change("engine", v1.spec.engine, v2.spec.engine)
    yield Change("workers", v1.spec.workers, v2.spec.workers)
    yield Change(_INTERPRETER, v1.spec.python, v2.spec.python)
    yield Change(_PROGRAMS, v1.programs_revision, v2.programs_revision)
    yield Change("programs_dir", v1.spec.programs_dir, v2.spec.programs_dir)
    yield Change("worker_env_file", v1.spec.worker_env_file, v2.spec.worker_env_file)
    yield Change("preload", ",".join(v1.spec.preload) or None, ",".join(v2.spec.preload) or None)
    yield Change("lm", v1.lm, v2.lm)
    for name in sorted({*v1.lm_settings, *v2.lm_settings}):
        yield Change(f"lm {name}", v1.lm_settings.get(name), v2.lm_settings.get(name))
    yield Change("own definitions", _programs(v1.own_definitions), _programs(v2.own_definitions))
    for name in LIMITS:
        yield Change(name, _number(getattr(v1.spec, name)), _number(getattr(v2.spec, name)))


def _programs(ids: Sequence[str]) -> str | None:
    """Names a few programs, or counts them."""
    return f"{len(ids)} programs" if len(ids) > NAMED_PROGRAMS else ", ".join(ids) or None


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"
