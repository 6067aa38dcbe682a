"""`API_KEYS_FILE`: what it looks like, and how a key is made. The server reads it, `poolshift keys` writes it."""

import hashlib
import secrets
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config import mounted_file

KEY_PREFIX = "psk_"


class Scope(StrEnum):
    """What a key allows. `admin` includes `execute`."""

    EXECUTE = "execute"
    ADMIN = "admin"


class StoredKey(BaseModel):
    """A key as the file has it: `hash` is the SHA-256 of the key, in hexadecimal digits.

    A plain hash is enough, since a key is 32 random bytes and no word that could be guessed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=128)
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)


class KeyFile(BaseModel):
    """The whole of `API_KEYS_FILE` (YAML or JSON)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[StoredKey, ...]


class InvalidKeyFile(Exception):
    """The file is missing or makes no sense."""


def read_key_file(path: Path) -> KeyFile:
    """Raises InvalidKeyFile; its message is one line and shows nothing of what the file holds."""
    return parse_key_file(mounted_file.look(path), path)


def parse_key_file(content: bytes | OSError, path: Path) -> KeyFile:
    """The same of what a look at the file has found; `path` is for the message."""
    if isinstance(content, OSError):
        raise InvalidKeyFile(f"{path}: {content.strerror}")
    try:
        return KeyFile.model_validate(mounted_file.parse(content))
    except mounted_file.InvalidDocument as error:
        raise InvalidKeyFile(f"{path}: {error}") from None
    except ValidationError as error:
        raise InvalidKeyFile(f"{path}: {mounted_file.problems(error)}") from None


def new_key() -> str:
    """A key that nobody has: 32 random bytes."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the file keeps of a key."""
    return hashlib.sha256(key.encode()).hexdigest()
