"""Tries a program before it is kept: each pool loads it once, in a process of its own."""

import asyncio

from app.problems import Problem
from app.services import Services
from pools.errors import CodeOutdated
from poolshift.worker.definitions import Definition
from poolshift.worker.loading import EntrypointError
from routing.versions import Version


async def try_definition(definition: Definition, services: Services) -> None:
    """Loads `definition` for each pool; with `--reload` the pools take the code on disk first, if that is newer.

    Raises:
        Problem: `invalid_request` if it cannot be loaded, `code_outdated` if a pool's workers have other code.
        PoolOverloaded: too many definitions are being tried.
        SpawnFailed: no process could be started for it.
    """
    try:
        await _try(definition, services)
    except CodeOutdated:
        if not services.reloader.is_automatic:
            raise
        await services.reloader.reload(services.pools)
        await _try(definition, services)


async def _try(definition: Definition, services: Services) -> None:
    checks = [_try_for(version, definition, services) for version in services.spawners]
    for outcome in await asyncio.gather(*checks, return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _try_for(version: Version, definition: Definition, services: Services) -> None:
    try:
        await services.spawners[version].check(definition)
    except EntrypointError as error:
        errors = [{"at": f"body.{error.at}", "message": str(error)}]
        raise Problem("invalid_request", f"body.{error.at}: {error}", extensions={"errors": errors}) from None
