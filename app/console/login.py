"""The login of the console: an encrypted cookie that names a key, and a limit on attempts.

The cookie holds nothing that the service would have to remember, so that any replica takes it. It names the key by an
id; the key itself is looked up on every request, so a revoked key is out at once.
"""

import base64
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

COOKIE: Final = "poolshift_console"
LIFETIME_S: Final = 8 * 3600
MAX_FAILURES: Final = 10
"""Failed attempts to log in that one address has in `FAILURES_S`."""
FAILURES_S: Final = 60.0
_MAX_ADDRESSES: Final = 1024
_PURPOSE: Final = b"poolshift console login"


class LoginCookies:
    """Makes and reads login cookies. The first secret encrypts, all of them decrypt, so that secrets can be rotated."""

    def __init__(self, secrets: Sequence[bytes], clock: Callable[[], float] = time.time) -> None:
        self._fernet = MultiFernet([_fernet(secret) for secret in secrets])
        self._clock = clock

    def issue(self, key_id: str) -> str:
        """Makes the cookie of a login, which lasts for `LIFETIME_S`."""
        token = self._fernet.encrypt_at_time(key_id.encode(), int(self._clock()))
        return token.decode().rstrip("=")  # the padding would have to be quoted in a cookie

    def read(self, cookie: str) -> str | None:
        """Returns the id of the key that a cookie names; None if it is forged, malformed or over."""
        padding = "=" * (-len(cookie) % 4)
        try:
            return self._fernet.decrypt_at_time((cookie + padding).encode(), LIFETIME_S, int(self._clock())).decode()
        except InvalidToken:
            return None


def _fernet(secret: bytes) -> Fernet:
    """Derives a key for this purpose alone: the secrets encrypt other things too."""
    key = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret)
    return Fernet(base64.urlsafe_b64encode(key))


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
