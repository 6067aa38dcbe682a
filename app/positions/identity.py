"""Finds out what a running pool is, by asking its interpreter and its zygote."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from app.positions.difference import PoolDifference, PoolIdentity, difference
from app.positions.factory import PoolSet
from config.pools import PoolSpec
from pools.errors import SpawnFailed
from poolshift.worker.describe import Description
from poolshift.worker.lm import NONE
from routing.catalog.definitions import encode_definition
from routing.catalog.lms import LMs
from routing.catalog.programs import Programs
from routing.rollout.identity import Identity
from routing.versions import Version

DESCRIBE_WAIT_S: Final = 5.0
"""The longest time that a view of a pool waits for its interpreter, in seconds."""
RAMP_WAIT_S: Final = 1.0
"""The longest time that the ramp's controller waits for the interpreters, in seconds."""
MAX_NAMED_PROGRAMS: Final = 20
"""Programs with a definition of V2's own that an identity names."""
_SIZES: Final = ("pool_size", "worker_max_executions", "worker_max_rss_mb", "worker_max_age_s")
"""Members of a specification that do not change what a program does."""

_log = structlog.stdlib.get_logger("poolshift")


class Parts(Protocol):
    """The parts of the service that tell what its pools are."""

    @property
    def pool_set(self) -> PoolSet:
        """The pools that run."""
        ...

    @property
    def lms(self) -> LMs:
        """The language models."""
        ...

    @property
    def programs(self) -> Programs:
        """The programs."""
        ...


@dataclass(frozen=True, slots=True)
class PoolParts:
    """Implements `Parts`."""

    pool_set: PoolSet
    lms: LMs
    programs: Programs


async def identity_of(version: Version, parts: Parts) -> PoolIdentity:
    """Identifies a pool. An interpreter that cannot run workers, or hangs, has no version and no packages."""
    try:
        async with asyncio.timeout(DESCRIBE_WAIT_S):
            return _identity(version, parts, await parts.pool_set.spawners[version].describe())
    except (SpawnFailed, TimeoutError):
        return _identity(version, parts, None)


async def pools_difference(parts: Parts) -> PoolDifference:
    """Compares the two pools as they run."""
    v1, v2 = await asyncio.gather(identity_of(Version.V1, parts), identity_of(Version.V2, parts))
    return difference(v1, v2)


async def identity_of_pools(parts: Parts) -> str:
    """Returns a digest of what both pools are, with V2's own definitions.

    A validation of other pools, or without a definition that is on trial now, proves nothing for these.
    """
    identities = await asyncio.gather(*(identity_of(version, parts) for version in parts.pool_set.engines))
    return _digest([*(_told(one) for one in identities), *_own_definitions(parts)])


async def evidence_generation(parts: Parts) -> str | None:
    """Returns a digest of what both pools are, with their LMs' settings and V2's own definitions.

    Evidence of another generation is about another V2. Waits for the interpreters, for as long as they take; returns
    None if one cannot run workers.
    """
    try:
        described = await asyncio.gather(
            *(parts.pool_set.spawners[version].describe() for version in parts.pool_set.engines)
        )
    except SpawnFailed:
        return None
    identities = [
        _identity(version, parts, one) for version, one in zip(parts.pool_set.engines, described, strict=True)
    ]
    settings = [parts.lms.shown(None, version).settings for version in parts.pool_set.engines]
    lms = [(one.model, one.api_base, one.temperature, one.max_tokens) for one in settings]
    return _digest([[_told(one) for one in identities], lms, *_own_definitions(parts)])


async def ramp_identity(pools: PoolSet, lms: LMs, programs: Programs) -> Identity | None:
    """Tells what both pools are, for the evidence of a ramp; None if one of them cannot tell within `RAMP_WAIT_S`.

    Definitions on trial, V2's own ones with those of V1 beside them, are part of what the pools are. Definitions that
    both versions run are not, nor are those of sessions, which end with them.
    """
    if any(spawner.revision is None for spawner in pools.spawners.values()):
        return None
    try:
        async with asyncio.timeout(RAMP_WAIT_S):
            described = await asyncio.gather(*(spawner.describe() for spawner in pools.spawners.values()))
    except (SpawnFailed, TimeoutError):
        return None
    parts: dict[str, str] = {}
    for version, description in zip(pools.spawners, described, strict=True):
        lm = lms.shown(None, version).settings
        found = {
            "specification": _digest(_kind(pools.specs[version])),
            "variables": _digest(pools.variables[version]),
            "Python": _digest(description.python),
            "packages": _digest(sorted(description.packages.items())),
            "code": _digest(pools.spawners[version].revision),
            "language model": _digest([lm.model, lm.api_base, lm.temperature, lm.max_tokens]),
        }
        parts |= {f"{version.upper()}'s {word}": digest for word, digest in found.items()}
    return Identity.of(parts | _on_trial(programs))


def _own_definitions(parts: Parts) -> Sequence[object]:
    """The digests of the definitions on trial as one part, or no part: digests without such a definition stay valid."""
    own = sorted(parts.programs.on_trial.items())
    return [own] if own else []


def _on_trial(programs: Programs) -> dict[str, str]:
    """Digests of the definitions on trial, each in its name; of many of them, one."""
    digests = programs.on_trial
    if len(digests) > MAX_NAMED_PROGRAMS:
        return {"V2's own definitions": _digest(sorted(digests.items()))}
    return {f"V2's own definition of {program_id}": digest for program_id, digest in digests.items()}


def _kind(spec: PoolSpec) -> dict[str, object]:
    return {name: value for name, value in spec.as_json().items() if name not in _SIZES}


def v2_identity(pools: PoolSet, lms: LMs, programs: Programs) -> Callable[[], Awaitable[str | None]]:
    """Returns what finds a digest of V2 as it runs: its pool, its LM, and the definitions that are its own.

    The digest is None while V2's interpreter cannot run workers.
    """
    own: tuple[frozenset[tuple[str, int]], str] = frozenset(), ""

    async def identify() -> str | None:
        nonlocal own
        spawner, spec = pools.spawners[Version.V2], pools.specs[Version.V2]
        try:
            description = await spawner.describe()
        except SpawnFailed:
            return None
        definitions = programs.own_definitions()
        revisions = frozenset((one.key, one.revision) for one in definitions)
        if revisions != own[0]:
            own = revisions, _digest(sorted((one.key, encode_definition(one.definition)) for one in definitions))
        lm = lms.shown(None, Version.V2).settings
        code = description.python, sorted(description.packages.items()), spawner.revision
        settings = lm.model, lm.api_base, lm.temperature, lm.max_tokens
        return _digest([spec.as_json() | {"pool_size": 0}, pools.variables[Version.V2], code, settings, own[1]])

    return identify


def _told(identity: PoolIdentity) -> tuple[object, ...]:
    spec = identity.spec.as_json() | {"pool_size": 0}
    code = identity.python, sorted(identity.packages.items()), identity.programs_revision
    return spec, identity.variables, *code, identity.lm


def _digest(told: object) -> str:
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


async def log_difference(parts: Parts) -> None:
    """Logs what V2 changes, if anything does; pools with one interpreter and path are not asked."""
    specs = parts.pool_set.specs
    v1, v2 = specs[Version.V1], specs[Version.V2]
    if v1 == v2 and not parts.lms.is_on_trial and not parts.programs.count_own():
        return
    if (v1.python, v1.programs_dir, v1.worker_env_file) == (v2.python, v2.programs_dir, v2.worker_env_file):
        found = difference(_identity(Version.V1, parts, None), _identity(Version.V2, parts, None))
    else:
        found = await pools_difference(parts)
    _log.info("V2 against V1", changes=found.summary)


def _identity(version: Version, parts: Parts, description: Description | None) -> PoolIdentity:
    lm = parts.lms.shown(None, version).settings
    settings = {"api_base": lm.api_base, "temperature": lm.temperature, "max_tokens": lm.max_tokens}
    return PoolIdentity(
        spec=parts.pool_set.specs[version],
        python=None if description is None else description.python,
        packages={} if description is None else description.packages,
        programs_revision=parts.pool_set.spawners[version].revision,
        programs_commit=parts.pool_set.spawners[version].commit,
        lm=None if lm.model == NONE else lm.model,
        lm_settings={name: f"{value}" for name, value in settings.items() if value is not None and lm.model != NONE},
        variables=parts.pool_set.variables[version],
        own_definitions=parts.programs.own_ids() if version is Version.V2 else (),
    )
