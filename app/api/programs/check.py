"""Tries a program before it is kept: each pool that is to run it loads it once, in a process of its own."""

import asyncio
from collections.abc import Sequence

from app.api.programs.body import with_derived
from app.positions.reload import OF_ITSELF
from app.problems import Problem
from app.services import Services
from pools.errors import CodeOutdated, SpawnFailed
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.loading import EntrypointError
from routing.errors import PlanConflict
from routing.versions import Version


async def try_definition(definition: Definition, services: Services, version: Version | None = None) -> Definition:
    """Loads `definition` for each pool, or for that of `version` alone.

    With `--reload` the pools take the code on disk first, if that is newer. Of all pools, one that is down,
    and need not serve, is left out: a fault of V2's hinders nobody who uses V1.

    Returns the definition, completed by the signature that its program tells if it leaves it to that.

    Raises:
        Problem: `invalid_request` if it cannot be loaded or asks for too much time, `code_outdated` if a pool's workers
            have other code, `load_failed` if the code on disk is newer and broken.
        PoolOverloaded: too many definitions are being tried.
        SpawnFailed: no process could be started for it.
    """
    services.deadlines.check_definition(definition)
    every = [one for one in services.spawners if not _is_left_out(one, services)]
    versions = every if version is None else [version]
    try:
        return await _try(definition, services, versions)
    except CodeOutdated:
        if not services.reloader.is_automatic or not await _reload(services):
            raise
        return await _try(definition, services, versions)


async def _reload(services: Services) -> bool:
    """Reloads all pools; False if a ramp compares them just now."""
    try:
        await services.reloader.reload_all(OF_ITSELF)
    except PlanConflict:
        return False
    except SpawnFailed as error:
        reason = f"the code on disk is newer than that of the workers, and cannot be loaded: {error}"
        raise Problem("load_failed", reason) from None
    return True


async def _try(definition: Definition, services: Services, versions: Sequence[Version]) -> Definition:
    checks = [services.spawners[version].check(definition) for version in versions]
    outcomes = await asyncio.gather(*checks, return_exceptions=True)
    refused = [isinstance(outcome, EntrypointError) for outcome in outcomes]
    signatures: list[Signature | None] = []
    for version, outcome in zip(versions, outcomes, strict=True):
        if isinstance(outcome, EntrypointError):
            told = str(outcome) if all(refused) else f"on {version.upper()}: {outcome}"
            raise _invalid(outcome.at, told)
        if isinstance(outcome, BaseException):
            raise outcome
        signatures.append(outcome)
    derived = signatures[0]
    if derived is None:
        return definition
    if any(other != derived for other in signatures):
        raise _invalid("signature", "the code of the two versions tells different signatures: give it one")
    try:
        return with_derived(definition, derived)
    except ValueError as error:
        raise _invalid("signature", str(error)) from None


def _is_left_out(version: Version, services: Services) -> bool:
    return version is not services.serving_version and services.pools[version].is_down


def _invalid(at: str, reason: str) -> Problem:
    errors = [{"at": f"body.{at}", "message": reason}]
    return Problem("invalid_request", f"body.{at}: {reason}", extensions={"errors": errors})
