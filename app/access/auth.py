"""API keys: kept hashed, each with scopes and an owner."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer

from app.problems import Problem
from config.api_keys import KeyFile, Scope, StoredKey
from routing.catalog.owners import EVERYONE, Caller, Editor


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a key. The rollout's history shows `name`; `scopes` has the included ones too."""

    name: str
    scopes: frozenset[Scope]
    caller: Caller
    """Owns the sessions and jobs that this principal makes, and may use."""
    reader: Caller
    """Sees the sessions and jobs that this principal may read."""
    editor: Editor
    """Makes and changes programs."""

    def may(self, scope: Scope) -> bool:
        """Tells if this principal has the scope."""
        return scope in self.scopes

    def sees_details(self, owner: str | None) -> bool:
        """Tells if this principal may read the details of errors in what `owner` owns."""
        return Scope.EXECUTE in self.scopes and self.caller.may_see(owner)


ANONYMOUS = Principal("anonymous", frozenset(Scope), EVERYONE, EVERYONE, Editor("anonymous", changes_all=True))


class Authenticator:
    """Finds the principal of a request. Without keys every request may do everything, as the settings allow."""

    def __init__(self, keys: KeyFile | None) -> None:
        self._keys: tuple[tuple[bytes, Principal], ...] | None = None
        self._by_id: Mapping[str, Principal] = {}
        self.revision = 0
        """Grows each time that other keys are valid."""
        self.when_replaced: Callable[[], None] = lambda: None
        """Called when other keys are valid."""
        if keys is not None:
            self.replace(keys)

    def replace(self, keys: KeyFile) -> None:
        """Makes other keys valid, and only these."""
        self._keys = tuple((bytes.fromhex(key.hash), _principal(key)) for key in keys.keys)
        self._by_id = {_key_id(stored): principal for stored, principal in self._keys}
        self.revision += 1
        self.when_replaced()

    @property
    def is_open(self) -> bool:
        """True without keys: every request may do everything."""
        return self._keys is None

    def id_of(self, key: bytes) -> str | None:
        """Finds the id of a key, by which a session names it; None for an unknown key."""
        digest = hashlib.sha256(key).digest()
        found = None
        for stored, _ in self._keys or ():  # all of them, so that the time tells nothing
            if hmac.compare_digest(stored, digest):
                found = _key_id(stored)
        return found

    def by_id(self, key_id: str) -> Principal | None:
        """Finds the principal of a key by the key's id; None once the key is revoked."""
        return self._by_id.get(key_id)

    def principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Finds the principal by a request's (lower-case) headers.

        Raises:
            Problem: `unauthorized`, if they have no key or an unknown one.
        """
        if self._keys is None:
            return ANONYMOUS
        presented = _presented_key(headers)
        if presented is None:
            raise Problem("unauthorized", "send a key as 'Authorization: Bearer …' or as 'X-API-Key'")
        digest = hashlib.sha256(presented).digest()
        found: Principal | None = None
        for stored, principal in self._keys:  # all of them, so that the time tells nothing
            if hmac.compare_digest(stored, digest):
                found = principal
        if found is None:
            raise Problem("unauthorized", "this API key is not known")
        return found


def _key_id(stored: bytes) -> str:
    """The id of a key: another one for each key, even under the same name. It tells nothing of the stored hash."""
    return hashlib.sha256(b"key id of " + stored).hexdigest()[:32]


def _principal(key: StoredKey) -> Principal:
    return principal_of(key.name, key.scopes, key.owner)


def principal_of(name: str, granted: frozenset[Scope], owner: str | None = None) -> Principal:
    """Makes the principal of a name with these scopes and those that they include."""
    scopes = frozenset(included for scope in granted for included in scope.included)
    is_admin = Scope.ADMIN in scopes
    caller = Caller(owner or name, is_admin)
    reader = Caller(owner or name, is_admin or Scope.OBSERVE in scopes)
    return Principal(name, scopes, caller, reader, Editor(name, owner, is_admin))


def _presented_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token:
        return token.strip()
    return headers.get(b"x-api-key")


def _allowed(request: Request, *scopes: Scope) -> Principal:
    """The principal of a request, if it has one of these scopes."""
    authenticator: Authenticator = request.app.state.authenticator
    principal = authenticator.principal(dict(request.scope["headers"]))
    if not principal.scopes.intersection(scopes):
        raise Problem("forbidden", f"this needs the scope {' or '.join(scopes)}")
    return principal


# These two document the key in OpenAPI. `Authenticator` reads it, from either header.
_Bearer = Annotated[object, Depends(HTTPBearer(auto_error=False, description="An API key"))]
_ApiKey = Annotated[object, Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key"))]


# Coroutines, since FastAPI would need a thread for each call of a plain function.
async def _executor(request: Request, _: _Bearer, __: _ApiKey) -> Principal:
    return _allowed(request, Scope.EXECUTE)


async def _reader(request: Request, _: _Bearer, __: _ApiKey) -> Principal:
    return _allowed(request, Scope.EXECUTE, Scope.OBSERVE)


async def _observer(request: Request, _: _Bearer, __: _ApiKey) -> Principal:
    return _allowed(request, Scope.OBSERVE)


async def _operator(request: Request, _: _Bearer, __: _ApiKey) -> Principal:
    return _allowed(request, Scope.OPERATE)


async def _admin(request: Request, _: _Bearer, __: _ApiKey) -> Principal:
    return _allowed(request, Scope.ADMIN)


Executor = Annotated[Principal, Depends(_executor)]
Reader = Annotated[Principal, Depends(_reader)]
"""Reads what concerns programs and their calls: `execute` or `observe`."""
Observer = Annotated[Principal, Depends(_observer)]
"""Reads what concerns the service's inside: `observe`."""
Operator = Annotated[Principal, Depends(_operator)]
Admin = Annotated[Principal, Depends(_admin)]
