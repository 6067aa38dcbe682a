"""`SECRET_KEY_FILE`: the keys that encrypt what the database holds, one a line, the newest first."""

import base64
import binascii
from pathlib import Path

from config import mounted_file

KEY_BYTES = 32


class InvalidSecretKey(Exception):
    """The file is missing or holds something else than keys; the message shows nothing of it."""


def read_secret_keys(path: Path) -> tuple[bytes, ...]:
    """Reads the keys. Each is 32 bytes in URL-safe base64.

    Raises:
        InvalidSecretKey: it says which line is wrong.
    """
    content = mounted_file.look(path)
    if isinstance(content, OSError):
        way_out = "if it is lost: a new file, and `poolshift db forget-lm-keys`"
        raise InvalidSecretKey(f"{path}: {content.strerror} ({way_out})")
    keys = tuple(_key(path, number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip())
    if not keys:
        raise InvalidSecretKey(f"{path}: it contains no key")
    return keys


def _key(path: Path, number: int, line: bytes) -> bytes:
    key = line.strip()
    try:
        is_key = len(base64.b64decode(key, altchars=b"-_", validate=True)) == KEY_BYTES
    except binascii.Error:
        is_key = False
    if not is_key:
        raise InvalidSecretKey(f"{path}: line {number} is not {KEY_BYTES} bytes in URL-safe base64")
    return key
