"""Follows `API_KEYS_FILE`, so that keys change without a restart."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from app.access.auth import Authenticator
from config import mounted_file
from config.api_keys import InvalidKeyFile, KeyFile, parse_key_file
from config.file_watch import contents

_log = structlog.stdlib.get_logger("poolshift.http")


class FollowedKeyFile:
    """The file of the valid keys. If it cannot be read or parsed, the last good keys stay."""

    def __init__(self, path: Path, authenticator: Authenticator, on_change: Callable[[], None]) -> None:
        """Calls `on_change` once keys are valid that `follow` has found, and not `read`."""
        self._path = path
        self._authenticator = authenticator
        self._on_change = on_change
        self._heard: bytes | str | None = None

    async def follow(self) -> None:
        """Makes the file's keys valid at each change, until it is cancelled."""
        async for content in contents(self._path):
            if await self._take(content):
                self._on_change()

    async def read(self) -> None:
        """Makes the keys valid that the file has now."""
        await self._take(await asyncio.to_thread(mounted_file.look, self._path))

    async def _take(self, content: bytes | OSError) -> bool:
        says = content if isinstance(content, bytes) else content.strerror
        if says == self._heard:
            return False
        self._heard = says
        try:
            keys = await asyncio.to_thread(parse_key_file, content, self._path)
        except InvalidKeyFile as error:
            _log.warning("API keys file ignored; the last good keys stay", reason=str(error))
            return False
        self._authenticator.replace(keys)
        _log.info("API keys read", names=[key.name for key in keys.keys])
        warn_if_empty(keys, self._path)
        return True


def warn_if_empty(keys: KeyFile, path: Path) -> None:
    """Warns of a file without a key, which lets nobody in."""
    if not keys.keys:
        _log.warning(
            "API_KEYS_FILE has no key: every call that needs one is refused",
            file=str(path),
            way_out=f"poolshift keys create --name NAME --scope admin --file {path}",
        )
