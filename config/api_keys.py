"""The format of `API_KEYS_FILE`, and the making of keys. The server reads the file, `poolshift keys` writes it."""

import hashlib
import secrets
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from config import mounted_file

KEY_PREFIX = "psk_"


class Scope(StrEnum):
    """A right that a key gives."""

    EXECUTE = "execute"
    """Programs, executions, and the caller's own sessions and jobs."""
    OBSERVE = "observe"
    """Reads everything but secrets and the details of errors."""
    OPERATE = "operate"
    """Changes the rollout; includes `observe`."""
    ADMIN = "admin"
    """Everything."""

    @property
    def included(self) -> frozenset["Scope"]:
        """The scopes that a key with this one has."""
        return _INCLUDED[self]


_INCLUDED: Mapping[Scope, frozenset[Scope]] = MappingProxyType(
    {
        Scope.EXECUTE: frozenset({Scope.EXECUTE}),
        Scope.OBSERVE: frozenset({Scope.OBSERVE}),
        Scope.OPERATE: frozenset({Scope.OPERATE, Scope.OBSERVE}),
        Scope.ADMIN: frozenset(Scope),
    }
)


def _without_nul(name: str) -> str:
    if "\0" in name:
        raise ValueError("must not contain a NUL character")  # the history keeps it, and PostgreSQL takes none
    return name


Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_without_nul)]


class StoredKey(BaseModel):
    """A key in the file: `hash` is the key's SHA-256 in hexadecimal digits.

    A plain hash is enough because a key is 32 random bytes, which nobody can guess.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    owner: Name | None = None
    """The owner of the sessions and jobs that this key makes; the key's name by default."""


class KeyFile(BaseModel):
    """The content of `API_KEYS_FILE` (YAML or JSON)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[StoredKey, ...]


class InvalidKeyFile(Exception):
    """The file of keys is missing or is not one."""


def read_key_file(path: Path) -> KeyFile:
    """Reads the file of keys.

    Raises:
        InvalidKeyFile: its message is one line and shows nothing of the file's content.
    """
    return parse_key_file(mounted_file.look(path), path)


def parse_key_file(content: bytes | OSError, path: Path) -> KeyFile:
    """Parses what a look at the file has found; `path` is for the message.

    Raises:
        InvalidKeyFile: see `read_key_file`.
    """
    if isinstance(content, OSError):
        raise InvalidKeyFile(f"{path}: {content.strerror}")
    try:
        return KeyFile.model_validate(mounted_file.parse(content))
    except mounted_file.InvalidDocument as error:
        raise InvalidKeyFile(f"{path}: {error}") from None
    except ValidationError as error:
        raise InvalidKeyFile(f"{path}: {mounted_file.problems(error)}") from None


def new_key() -> str:
    """Makes a key from 32 random bytes."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """The hash of a key, which the file keeps in place of the key."""
    return hashlib.sha256(key.encode()).hexdigest()
