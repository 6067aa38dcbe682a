"""Refuses requests that another site sends through a user's browser: by DNS rebinding, or from a page of its own.

A browser tells in `Host` under which name it reached the service, and in `Origin` and `Sec-Fetch-Site` which site asks.
No page can change these headers. Programs such as curl send no `Origin`.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

from app.problems import Problem
from config.settings import Settings

EXEMPT_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Probes and scrapers name the service as they please, and these paths change nothing."""


class HostGuard:
    """The names by which the service may be reached: those of loopback, and `ALLOWED_HOSTS`."""

    def __init__(self, allowed: Iterable[str], *, is_active: bool) -> None:
        self._is_active = is_active
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed)
        self._is_ours = lru_cache(maxsize=64)(self._is_own_authority)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The guard that the settings ask for.

        Without `ALLOWED_HOSTS`, only an open service on loopback needs one: elsewhere a page would need a key.
        """
        is_open_on_loopback = settings.api_keys_file is None and settings.is_on_loopback
        names = settings.allowed_host_names
        return cls(names, is_active=is_open_on_loopback or bool(names))

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Looks at a request's (lower-case) headers.

        Raises:
            Problem: `forbidden_host`, if `Host` or `Origin` is not one of ours.
        """
        if not self._is_active:
            return
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if not self._is_ours(host):
            raise _refusal("Host", host)
        if origin is not None:
            if not self._is_own_origin(origin):
                raise _refusal("Origin", origin)
        elif headers.get(b"sec-fetch-site") == b"cross-site":
            raise Problem("forbidden_host", "another site asks for this (Sec-Fetch-Site: cross-site)")

    def _is_own_origin(self, origin: bytes) -> bool:
        scheme, separator, authority = origin.partition(b"://")
        return bool(separator) and scheme.lower() in (b"http", b"https") and self._is_ours(authority)

    def _is_own_authority(self, authority: bytes) -> bool:
        try:
            url = urlsplit(f"//{authority.decode('ascii')}")
            name = (url.hostname or "").rstrip(".")
            is_plain = url.netloc == authority.decode("ascii") and "@" not in url.netloc
            _ = url.port  # raises ValueError if it is not a port
        except ValueError:
            return False
        return is_plain and (name in self._allowed or is_loopback(name))


def is_loopback(name: str) -> bool:
    """Tells if a host's name or address can only mean this machine."""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _refusal(header: str, value: bytes) -> Problem:
    shown = value[:64].decode("latin-1")
    return Problem("forbidden_host", f"{header}: {shown!r} is neither a loopback name nor in ALLOWED_HOSTS")
