"""Browser sessions: a signed cookie that names a key, and a limit on attempts to log in.

The cookie holds nothing that the service would have to remember, so that any replica takes it. It names the key by an
id; the key itself is looked up on every request, so a revoked key is out at once.
"""

import base64
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

COOKIE: Final = "poolshift_console"
LIFETIME_S: Final = 8 * 3600
MAX_FAILURES: Final = 10
"""Failed attempts to log in that one address has in `FAILURES_S`."""
FAILURES_S: Final = 60.0
_MAX_ADDRESSES: Final = 1024
_PURPOSE: Final = b"poolshift console session v1"
_PARTS: Final = 3


class CookieSigner:
    """Signs and reads session cookies. The first secret signs, all of them verify, so that secrets can be rotated."""

    def __init__(self, secrets: Sequence[bytes], clock: Callable[[], float] = time.time) -> None:
        # A key of its own for this purpose: the secrets encrypt other things too.
        self._keys = [hmac.digest(secret, _PURPOSE, hashlib.sha256) for secret in secrets]
        self._clock = clock

    def issue(self, key_id: str) -> str:
        """Makes the cookie of a session that begins now."""
        content = f"{key_id}.{int(self._clock()) + LIFETIME_S}"
        return f"{content}.{_signature(self._keys[0], content)}"

    def read(self, cookie: str) -> str | None:
        """Returns the id of the key that a cookie names; None if it is forged, malformed or over."""
        parts = cookie.split(".")
        if len(parts) != _PARTS or not cookie.isascii():
            return None
        key_id, until, signature = parts
        content = f"{key_id}.{until}"
        is_ours = False
        for key in self._keys:
            is_ours |= hmac.compare_digest(_signature(key, content), signature)
        if not is_ours or not until.isdecimal() or int(until) <= self._clock():
            return None
        return key_id


def _signature(key: bytes, content: str) -> str:
    digest = hmac.digest(key, content.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class LoginLimit:
    """Counts failed attempts by address; the oldest addresses are forgotten if there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Returns the seconds that an address must wait before its next attempt; 0 if it may try now."""
        began, count = self._failures.get(address, (0.0, 0))
        left_s = began + FAILURES_S - self._clock()
        return left_s if count >= MAX_FAILURES and left_s > 0 else 0.0

    def failed(self, address: str) -> None:
        """Counts a failed attempt."""
        now = self._clock()
        began, count = self._failures.pop(address, (now, 0))
        self._failures[address] = (began, count + 1) if now - began < FAILURES_S else (now, 1)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)
