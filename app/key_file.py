"""Follows `API_KEYS_FILE`: other keys are valid without a restart."""

from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from app.auth import Authenticator
from config.api_keys import InvalidKeyFile, read_key_file

_log = structlog.stdlib.get_logger("poolshift.http")


async def follow_key_file(path: Path, contents: AsyncIterator[bytes | None], authenticator: Authenticator) -> None:
    """Takes what the file holds; where it makes no sense, the keys that were valid stay so."""
    heard: bytes | None = None
    async for content in contents:
        if content is None or content == heard:
            continue
        heard = content
        try:
            keys = read_key_file(path)
        except InvalidKeyFile as error:
            _log.warning("API keys file ignored; the last good keys stay", reason=str(error))
        else:
            authenticator.replace(keys)
            _log.info("API keys read", names=[key.name for key in keys.keys])
