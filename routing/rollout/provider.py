"""`ROLLOUT_FLAG`: the percentage from an OpenFeature provider, read at its change events and not for each call.

OpenFeature (openfeature.dev) is an optional group of dependencies (`flags`).
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from common.log_once import LogOnce
from routing.errors import StoreUnavailable
from routing.rollout.flag import RolloutFlag
from routing.rollout.model import Change, Source, to_basis_points

LOOK_AGAIN_S = 5.0
"""Interval at which a provider that sends no events is asked, in seconds."""


class InvalidProvider(Exception):
    """The provider cannot be loaded."""


class _UsersFinder(MetaPathFinder):
    """Finds the operator's modules: on `PYTHONPATH`, and in the folder in which the service was started."""

    def __init__(self) -> None:
        entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self._folders = [*filter(None, entries), str(Path.cwd())]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by the import system once every other finder has found nothing."""
        return None if path is not None else PathFinder.find_spec(fullname, self._folders, target)


@contextmanager
def _users_modules() -> Iterator[None]:
    """Lets the block import the operator's modules, which shadow none of the service's (docs/adr/0008)."""
    finder = _UsersFinder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class RolloutProvider:
    """Evaluates one flag when its provider says that something has changed."""

    def __init__(self, flag: RolloutFlag, flag_key: str, provider: str) -> None:
        """Imports `provider`, which is `module:factory`; the factory takes no arguments and reads its own environment.

        Raises:
            InvalidProvider: the provider cannot be imported.
        """
        self._name = provider
        try:
            self._api: Any = importlib.import_module("openfeature.api")
            self._events: Any = importlib.import_module("openfeature.event").ProviderEvent
        except ImportError as error:
            raise InvalidProvider(f"ROLLOUT_FLAG needs the group `flags`: {error}") from None
        try:
            module, _, factory = provider.partition(":")
            with _users_modules():
                self._factory: Any = getattr(importlib.import_module(module), factory)
        except Exception as error:  # it is the operator's code
            raise InvalidProvider(f"ROLLOUT_FLAG_PROVIDER={provider}: {_in_one_line(error)}") from None
        self._flag = flag
        self._flag_key = flag_key
        self._changed = asyncio.Event()
        self._log_once = LogOnce("rollout flag ignored; the last good value stays", flag=flag_key)

    async def follow(self) -> None:
        """Applies the flag's value, now and whenever the value changes."""
        loop = asyncio.get_running_loop()

        def changed(_: object) -> None:
            loop.call_soon_threadsafe(self._changed.set)

        events = (self._events.PROVIDER_READY, self._events.PROVIDER_CONFIGURATION_CHANGED)
        for event in events:
            self._api.add_handler(event, changed)
        try:
            await self._set_provider()
            while True:
                self._changed.clear()
                await self._apply()
                try:
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            for event in events:
                self._api.remove_handler(event, changed)
            await asyncio.to_thread(self._api.shutdown)

    async def _set_provider(self) -> None:
        """Makes the provider and hands it to OpenFeature, as soon as neither raises."""

        def make() -> None:
            with _users_modules():
                provider = self._factory()
            self._api.set_provider(provider)

        while True:
            try:
                await asyncio.to_thread(make)
            except Exception as error:  # it is the operator's code
                self._log_once.warn(f"ROLLOUT_FLAG_PROVIDER={self._name} raised {_in_one_line(error)}")
            else:
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _apply(self) -> None:
        epoch = self._flag.epoch  # a rollback while the provider evaluates comes after the provider's wish
        details = await asyncio.to_thread(self._api.get_client().get_float_details, self._flag_key, -1.0)
        if details.error_code is not None:
            self._log_once.warn(f"{details.error_code}: {details.error_message}")
            return
        try:
            points = to_basis_points(details.value)
            change = Change(points, Source.FLAG, self._flag_key, f"variant {details.variant}")
            await self._flag.apply(change, asked_in=epoch)
        except (ValueError, ArithmeticError, StoreUnavailable) as error:
            self._log_once.warn(str(error))
        else:
            self._log_once.clear()


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
