"""Access to the console: the visitor behind a request, and protection from other sites' forms."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request

from app.access.auth import ANONYMOUS, Authenticator, Principal, principal_of
from app.console.login import COOKIE, LoginCookies, LoginLimit
from app.problems import Problem
from config.api_keys import Scope
from config.settings import Settings

_MAX_NAME: Final = 128


class LoginNeeded(Exception):
    """A page needs a visitor, and the request has none."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person at the console, with the rights of a key."""

    principal: Principal
    by: Literal["open", "key", "proxy"]
    """The way in which the visitor is known: an open service, a login with a key, or a proxy's header."""

    def may(self, scope: str) -> bool:
        """Tells if this visitor has the scope; templates ask by its name."""
        return self.principal.may(Scope(scope))


class Access:
    """Finds the visitor of a request: by the proxy that the settings trust, else by the login's cookie."""

    def __init__(self, settings: Settings, authenticator: Authenticator, secrets: Sequence[bytes]) -> None:
        self.cookies = LoginCookies(secrets)
        self.limit = LoginLimit()
        self._authenticator = authenticator
        self._header = settings.console_user_header
        self._proxies = settings.console_proxies
        self._scope = Scope(settings.console_user_scope)

    def find(self, request: Request) -> Visitor | None:
        """Finds the visitor of a request; None if it has to log in."""
        if self._authenticator.is_open:
            return Visitor(ANONYMOUS, "open")
        return self._by_proxy(request) or self._by_cookie(request)

    def log_in(self, request: Request, key: str) -> str | None:
        """Checks a key; returns the cookie of the login, or None if the key is unknown or may see no page.

        Raises:
            Problem: `quota_exceeded`, after too many failed attempts from the same address.
        """
        address = self._address(request)
        if (wait_s := self.limit.wait_s(address)) > 0:
            raise Problem("quota_exceeded", "Too many failed attempts. Wait a minute.", retry_after_s=wait_s)
        key_id = self._authenticator.id_of(key.encode("utf-8", "replace"))
        principal = None if key_id is None else self._authenticator.by_id(key_id)
        if key_id is None or principal is None or not principal.may(Scope.OBSERVE):
            self.limit.failed(address)
            return None
        return self.cookies.issue(key_id)

    def _by_cookie(self, request: Request) -> Visitor | None:
        key_id = self.cookies.read(request.cookies.get(COOKIE, ""))
        principal = None if key_id is None else self._authenticator.by_id(key_id)
        if principal is None or not principal.may(Scope.OBSERVE):
            return None  # the key has been revoked, or has lost the scope
        return Visitor(principal, "key")

    def _by_proxy(self, request: Request) -> Visitor | None:
        """The user whom a trusted proxy names, once and without ambiguity."""
        if self._header is None or not self._is_proxy(request):
            return None
        names = request.headers.getlist(self._header)
        if len(names) != 1 or not (name := names[0].strip()):
            return None
        return Visitor(principal_of(name[:_MAX_NAME], frozenset({self._scope})), "proxy")

    def _is_proxy(self, request: Request) -> bool:
        try:
            peer = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(peer in network for network in self._proxies)

    def _address(self, request: Request) -> str:
        """The client's address: the peer's, or the last one that a trusted proxy has added."""
        peer = request.client.host if request.client else ""
        if not self._is_proxy(request):
            return peer
        return request.headers.get("x-forwarded-for", peer).rpartition(",")[2].strip()[:64]


def is_secure(request: Request) -> bool:
    """Tells if the browser speaks TLS, here or with the proxy in front; a lie concerns the liar's cookie alone."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuses a form that another site sends: by `Sec-Fetch-Site`, else by `Origin` against `Host`.

    Raises:
        Problem: `forbidden_host`. So does a request that has neither header.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        is_own = site == "same-origin"
    elif origin is not None:
        url = urlsplit(origin)
        is_own = url.scheme in ("http", "https") and url.netloc == headers.get("host")
    else:
        is_own = False
    if not is_own:
        raise Problem("forbidden_host", "This request does not come from a page of this console.")


async def _visitor(request: Request) -> Visitor:
    access: Access = request.app.state.console.access
    visitor = access.find(request)
    if visitor is None:
        raise LoginNeeded
    return visitor


async def _operator(request: Request) -> Visitor:
    return with_scope(await _acting(request), Scope.OPERATE)


async def _acting(request: Request) -> Visitor:
    check_origin(request.headers)
    return await _visitor(request)


def with_scope(visitor: Visitor, scope: Scope) -> Visitor:
    """Returns the visitor, if the scope is there. Raises Problem."""
    if not visitor.principal.may(scope):
        raise Problem("forbidden", f"This needs the scope {scope}.")
    return visitor


Viewing = Annotated[Visitor, Depends(_visitor)]
"""Looks at a page."""
Operating = Annotated[Visitor, Depends(_operator)]
"""Sends a form of this console, and may operate."""
Acting = Annotated[Visitor, Depends(_acting)]
"""Sends a form of this console."""
