"""`API_KEYS_FILE`: what it looks like, and how a key is made. The server reads it, `poolshift keys` writes it."""

import hashlib
import secrets
from enum import StrEnum
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

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
    try:
        return KeyFile.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise InvalidKeyFile(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise InvalidKeyFile(f"{path}: this is neither YAML nor JSON") from None
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        raise InvalidKeyFile(f"{path}: {'; '.join(_line(problem) for problem in found)}") from None


def new_key() -> str:
    """A key that nobody has: 32 random bytes."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the file keeps of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _line(problem: ErrorDetails) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
