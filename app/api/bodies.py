"""Large bodies of ordinary requests: parsed and checked in a thread, since a client chooses what that costs."""

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from common.threads import in_check_thread

INLINE_BYTES: Final = 16 * 1024
"""The event loop checks a smaller body itself, in about 1 ms."""
_Check = Callable[[Any], tuple[Any, list[Any]]]


class BodyRoute(APIRoute):
    """Has large bodies checked in a thread; FastAPI would do so on the event loop."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's handler, with a request that checks its own body."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        check: _Check = partial(self.body_field.validate, values={}, loc=("body",))

        async def handle_checked(request: Request) -> Response:
            try:
                return await handle(_CheckedRequest(request, check))
            except _Misfit as misfit:
                raise misfit.error from None

        return handle_checked


class _CheckedRequest(Request):
    """A request whose `json` is the checked body: an instance of a model passes FastAPI's own check as it is."""

    def __init__(self, request: Request, check: _Check) -> None:
        super().__init__(request.scope, request.receive)
        self._check = check

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= INLINE_BYTES:
            return await super().json()
        return await in_check_thread(partial(self._checked, body))

    def _checked(self, body: bytes) -> Any:
        parsed = json.loads(body)
        value, errors = self._check(parsed)
        if errors:
            raise _Misfit(RequestValidationError(errors, body=parsed))
        return value


class _Misfit(HTTPException):
    """A body that does not fit, in the one kind of error that FastAPI lets through."""

    def __init__(self, error: RequestValidationError) -> None:
        super().__init__(422)
        self.error = error
