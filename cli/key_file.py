"""Changes `API_KEYS_FILE`: whole or not at all, one writer at a time, readable by its owner alone."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cli.errors import CommandFailed, ExitCode
from config.api_keys import InvalidKeyFile, KeyFile, Scope, StoredKey, read_key_file


def keys_in(path: Path) -> tuple[StoredKey, ...]:
    """Reads the keys of a file."""
    with _usage_errors(path):
        return read_key_file(path).keys


def add_key(path: Path, key: StoredKey) -> None:
    """Adds a key; creates the file if there is none."""

    def added(keys: KeyFile) -> KeyFile:
        if any(other.name == key.name for other in keys.keys):
            raise CommandFailed(ExitCode.CONFLICT, f"{path}: there is a key named {key.name!r} already")
        return KeyFile(keys=(*keys.keys, key))

    _change(path, added)


def remove_key(path: Path, name: str, *, may_be_last: bool = False) -> bool:
    """Removes a key; tells if it was there. The last one with the scope admin stays, unless told otherwise."""
    found = False

    def without(keys: KeyFile) -> KeyFile:
        nonlocal found
        left = tuple(key for key in keys.keys if key.name != name)
        found = len(left) < len(keys.keys)
        if _has_admin(keys.keys) and not _has_admin(left) and not may_be_last:
            way_out = "`poolshift keys create --scope admin` makes another one; --last-admin revokes it all the same"
            raise CommandFailed(ExitCode.REFUSED, f"{path}: {name!r} is the last key with the scope admin ({way_out})")
        return KeyFile(keys=left)

    _change(path, without)
    return found


def _has_admin(keys: Iterable[StoredKey]) -> bool:
    return any(Scope.ADMIN in key.scopes for key in keys)


def to_yaml(keys: KeyFile) -> str:
    """Reads the file's content."""
    return yaml.safe_dump(_plain(keys), sort_keys=False, allow_unicode=True)


def entry_of(key: StoredKey) -> dict[str, Any]:
    """A key as the file has it; without an owner, the name is the owner."""
    entry = {"name": key.name, "hash": key.hash, "scopes": sorted(map(str, key.scopes))}
    return entry if key.owner is None else {**entry, "owner": key.owner}


def _plain(keys: KeyFile) -> dict[str, Any]:
    return {"keys": [entry_of(key) for key in keys.keys]}


def _change(path: Path, change: Callable[[KeyFile], KeyFile]) -> None:
    with _usage_errors(path):
        target = path.resolve()  # a link stays one
        with _only_writer(target.parent):
            exists = target.exists() and target.stat().st_size > 0
            before = read_key_file(target) if exists else KeyFile(keys=())
            after = change(before)
            if after == before:
                return
            text = json.dumps(_plain(after), indent=2) + "\n" if target.suffix == ".json" else to_yaml(after)
            _replace(target, text)


@contextlib.contextmanager
def _usage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{path}: {error.strerror}") from None
    except InvalidKeyFile as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


@contextlib.contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Locks the folder. The file itself is replaced, so that a lock on it would be on the old one."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)  # the new name is on the disk, too
    finally:
        os.close(descriptor)


def _replace(target: Path, text: str) -> None:
    """Replaces the file: a reader sees the old file or the new one, never a part."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if target.exists():  # it may be the service's, and written by root
                owner = target.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
