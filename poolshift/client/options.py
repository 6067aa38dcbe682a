"""The options of a client: the service's address, the key, timeouts and retries."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

from poolshift.client.calls import Call
from poolshift.client.retries import Attempts, Retry

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_RETRY = Retry()
KEEP_ALIVE_S = 3.0
"""Longest time that a connection stays idle: the service closes it after 5 s, perhaps as a call arrives."""


@dataclass(frozen=True)
class Options:
    """The checked options of a client."""

    url: str
    api_key: str | None
    timeout_s: float
    connect_timeout_s: float
    retry: Retry

    def __post_init__(self) -> None:
        if not (self.timeout_s > 0 and self.connect_timeout_s > 0):
            raise ValueError("a timeout is a number of seconds above 0")

    def __repr__(self) -> str:
        """Leaves the key out."""
        return f"{self.url}, timeout_s={self.timeout_s:g}, {self.retry}"

    def but(self, timeout_s: float | None, retry: Retry | None) -> "Options":
        """Replaces the options that are not None."""
        return replace(
            self,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            retry=self.retry if retry is None else retry,
        )

    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        agent = {"user-agent": f"poolshift-client/{_version()}", "accept": "application/json"}
        return agent if self.api_key is None else {**agent, "authorization": f"Bearer {self.api_key}"}

    def attempts(self, call: Call[Any]) -> Attempts:
        """Begins the attempts at a call; a call for which the caller has named a longer time has that."""
        return Attempts(call, self.retry, max(self.timeout_s, call.patience_s))


def options(
    url: str | None,
    api_key: str | None,
    *,
    timeout_s: float,
    connect_timeout_s: float,
    retry: Retry,
    environment: Mapping[str, str] = os.environ,
) -> Options:
    """Completes options by the environment: `POOLSHIFT_URL` and `POOLSHIFT_API_KEY`.

    Raises:
        ValueError: one of them makes no sense.
    """
    url = url if url is not None else environment.get("POOLSHIFT_URL") or DEFAULT_URL
    key = api_key if api_key is not None else environment.get("POOLSHIFT_API_KEY")
    return Options(_checked_url(url), _checked_key(key), timeout_s, connect_timeout_s, retry)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("the address has a password in it: POOLSHIFT_API_KEY, or an argument, has the key")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not the http:// or https:// address of a service")
    _ = parts.port  # raises ValueError if it is not a port
    return url.rstrip("/")


def _checked_key(key: str | None) -> str | None:
    key = (key or "").strip()
    if not (key.isascii() and all(char.isprintable() and char != " " for char in key)):
        raise ValueError("the API key has characters that no key has")
    return key or None


def _version() -> str:
    try:
        return version("poolshift")
    except PackageNotFoundError:  # copied, not installed
        return "unknown"
