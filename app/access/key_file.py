"""Follows `API_KEYS_FILE`, so that keys change without a restart."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from app.access.auth import Authenticator
from config.api_keys import InvalidKeyFile, parse_key_file

_log = structlog.stdlib.get_logger("poolshift.http")


async def follow_key_file(path: Path, contents: AsyncIterator[bytes | OSError], authenticator: Authenticator) -> None:
    """Makes the file's keys valid at each change. If it cannot be read or parsed, the last good keys stay."""
    heard: bytes | str | None = None
    async for content in contents:
        says = content if isinstance(content, bytes) else content.strerror
        if says == heard:
            continue
        heard = says
        try:
            keys = await asyncio.to_thread(parse_key_file, content, path)
        except InvalidKeyFile as error:
            _log.warning("API keys file ignored; the last good keys stay", reason=str(error))
        else:
            authenticator.replace(keys)
            _log.info("API keys read", names=[key.name for key in keys.keys])
