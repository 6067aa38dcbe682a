"""Who may do what: API keys, kept hashed, each with scopes."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer

from app.problems import Problem
from config.api_keys import KeyFile, Scope


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request; `name` is what the rollout's history says of them."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether it is allowed."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


ANONYMOUS = Principal("anonymous", frozenset(Scope))


class Authenticator:
    """Tells who a request is from. Without keys everyone is allowed everything: the settings see that this is meant."""

    def __init__(self, keys: KeyFile | None) -> None:
        self._keys: tuple[tuple[bytes, Principal], ...] | None = None
        if keys is not None:
            self.replace(keys)

    def replace(self, keys: KeyFile) -> None:
        """Other keys are valid from now on."""
        self._keys = tuple((bytes.fromhex(key.hash), Principal(key.name, key.scopes)) for key in keys.keys)

    def principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Who sends these (lower-case) headers. Raises Problem `unauthorized`."""
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


def _presented_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token:
        return token.strip()
    return headers.get(b"x-api-key")


def _allowed(request: Request, scope: Scope) -> Principal:
    authenticator: Authenticator = request.app.state.authenticator
    principal = authenticator.principal(dict(request.scope["headers"]))
    if not principal.may(scope):
        raise Problem("forbidden", f"this needs the scope {scope!s}")
    return principal


# What OpenAPI says of a key, which is read above: neither answers for itself, and either will do.
_Bearer = Annotated[object, Depends(HTTPBearer(auto_error=False, description="An API key"))]
_ApiKey = Annotated[object, Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key"))]


# Coroutines, since FastAPI would need a thread for each call of a plain function.
async def _executor(request: Request, _: _Bearer, __: _ApiKey) -> Principal:
    return _allowed(request, Scope.EXECUTE)


async def _admin(request: Request, _: _Bearer, __: _ApiKey) -> Principal:
    return _allowed(request, Scope.ADMIN)


Executor = Annotated[Principal, Depends(_executor)]
Admin = Annotated[Principal, Depends(_admin)]
