"""`ROLLOUT_FLAG`: the percentage from an OpenFeature provider, read at its change events and not for each call.

OpenFeature (openfeature.dev) is an optional group of dependencies (`flags`).
"""

import asyncio
import importlib
from typing import Any

from common.log_once import LogOnce
from routing.errors import StoreUnavailable
from routing.rollout.flag import RolloutFlag
from routing.rollout.model import Change, Source, to_basis_points

LOOK_AGAIN_S = 5.0
"""Interval at which a provider that sends no events is asked, in seconds."""


class InvalidProvider(Exception):
    """The provider cannot be loaded."""


class RolloutProvider:
    """Evaluates one flag when its provider says that something has changed."""

    def __init__(self, flag: RolloutFlag, flag_key: str, provider: str) -> None:
        """Imports `provider`, which is `module:factory`; the factory takes no arguments and reads its own environment.

        Raises:
            InvalidProvider: the provider cannot be imported.
        """
        try:
            self._api: Any = importlib.import_module("openfeature.api")
            self._events: Any = importlib.import_module("openfeature.event").ProviderEvent
            module, _, factory = provider.partition(":")
            self._factory: Any = getattr(importlib.import_module(module), factory)
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidProvider(
                f"ROLLOUT_FLAG needs the group `flags` and the provider {provider}: {error}"
            ) from None
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
            await asyncio.to_thread(self._api.set_provider, self._factory())
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
