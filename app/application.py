"""The application: FastAPI for every resource, and ahead of it the execute lane."""

import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info
from starlette.datastructures import State
from starlette.types import Message, Receive, Scope, Send

from app import assets, problems
from app.access.auth import Authenticator
from app.access.body_limit import guard_body
from app.access.hosts import EXEMPT_PATHS, HostGuard
from app.api import (
    analysis,
    batch,
    executions,
    failures,
    health,
    lms,
    migration,
    pools,
    problem_pages,
    ramp,
    reloads,
    rollout,
    root,
    sessions,
    shadow,
)
from app.api.programs import apply as program_application
from app.api.programs import resource as programs
from app.api.programs import revisions as program_revisions
from app.api.programs import undo as program_undo
from app.api.programs import versions as program_versions
from app.assets import Assets
from app.console import headers, rendering, routes
from app.execute.batch import BatchEndpoint
from app.execute.endpoint import ExecuteLane, is_execute
from app.lifespan import lifespan
from app.openapi import document as openapi
from app.openapi import routes as documentation
from app.problems import Problem
from app.replicas.answering import Answering
from app.replicas.replica import Replica
from app.version import VERSION
from config.api_keys import read_key_file
from config.secret_key import read_secret_keys
from config.settings import InvalidSettings, Settings
from pools.errors import SpawnFailed
from pools.process.import_check import InvalidProgramModules
from routing.errors import StoreUnavailable
from routing.rollout.provider import InvalidProvider
from routing.telemetry.http_metrics import HttpMetrics

_DESCRIPTION = """\
A program is a function with a typed signature. `POST /programs` creates it, `POST /programs/{program_id}/execute` runs
it on a pool of worker processes. The rollout decides which of two pools serves a call.

Every error is an `application/problem+json`. Branch on its `code`; its `type` is the path of a page that says what the
code means and what to do. `x-problems` lists the codes of each operation. A method or a path that is not here is
answered `method_not_allowed` or `not_found`.

If the service has API keys, send one as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.
"""

_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own: `routing.telemetry` does it."""

_ROUTERS = (
    executions.execute_router,
    batch.router,
    programs.router,
    program_application.router,
    program_undo.router,
    program_revisions.router,
    program_versions.router,
    executions.router,
    sessions.router,
    shadow.router,
    lms.router,
    rollout.router,
    ramp.router,
    analysis.router,
    migration.router,
    failures.router,
    pools.router,
    reloads.router,
    health.router,
    documentation.router,
    routes.router,
    assets.router,
    problem_pages.router,
    root.router,
)

_ASSET_FOLDERS = (assets.VENDORED, Path(__file__).with_name("static"), rendering.STATIC)
"""The files that pages load, of others and of our own."""

_OPERATORS_ERRORS = (InvalidSettings, StoreUnavailable, InvalidProvider, InvalidProgramModules, SpawnFailed)


class Application(FastAPI):
    """FastAPI, and the execute lane ahead of it."""

    lane: ExecuteLane
    batches: BatchEndpoint
    """Both are set by the lifespan before the first request."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Returns the coroutine of the part that serves the request, so that none of its own is added."""
        if is_execute(scope):
            return self.lane(scope, receive, send)
        if scope["type"] == "http":
            answering: Answering | None = self.state.answering
            if answering is not None and answering.takes(scope):
                return answering(scope, receive, send)
            if headers.is_console(scope):
                send = headers.guarded(send)
            if (refusal := self._refusal(scope)) is not None:
                return refusal(scope, receive, send)
            state = self.state
            # A form of the console has no key to be known by: the console asks for a session before it reads the form.
            strangers = None if headers.is_console(scope) else state.authenticator
            receive = guard_body(scope, receive, strangers, state.settings.max_body_bytes)
            if self.state.replica is not None and self.state.replica.is_behind:
                return self._after_others(self.state.replica, scope, receive, send)
        elif scope["type"] == "lifespan":
            send = _in_one_line(send, self.state)
        return super().__call__(scope, receive, send)

    async def _after_others(self, replica: Replica, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request with all that other replicas had changed before it came."""
        await replica.catch_up()
        await super().__call__(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that another site sends through a browser."""
        if scope["path"] in EXEMPT_PATHS:
            return None
        try:
            self.state.host_guard.check(dict(scope["headers"]))
        except Problem as problem:
            return problem.response()
        return None

    def openapi(self) -> dict[str, Any]:
        """Makes the document once: FastAPI's own, completed."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                summary=self.summary,
                description=_DESCRIPTION,
                contact={"name": "The Poolshift developers"},
                license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
                servers=[{"url": "/", "description": "This service"}],
                routes=self.routes,
            )
            self.openapi_schema = openapi.complete(document, ramp.plan_schemas())
        return self.openapi_schema


def _in_one_line(send: Send, state: State) -> Send:
    """Tells a failed start in one line, without a traceback, if the operator can mend its cause.

    The `state` of the application gets the error.
    """

    async def tell(message: Message) -> None:
        error = sys.exception()
        if message["type"] == "lifespan.startup.failed":
            state.start_error = error
            if isinstance(error, _OPERATORS_ERRORS):
                message = {**message, "message": str(error)}
        await send(message)

    return tell


def create_app(settings: Settings) -> Application:
    """Creates the service as an ASGI application. Its lifespan starts everything.

    Raises:
        InvalidKeyFile: `API_KEYS_FILE` is missing or is not a file of keys.
        InvalidSecretKey: `SECRET_KEY_FILE` is missing or is not a file of secret keys.
    """
    app = Application(
        title="Poolshift",
        summary="Runs programs on pools of Python workers and moves their traffic from one engine to the next.",
        version=VERSION,
        lifespan=lifespan,
        telemetry=_NO_TELEMETRY,
        redirect_slashes=False,  # a redirect has no handler, and its path would be a label of the metrics
        openapi_url=None,  # `app.openapi.routes` has what FastAPI would serve to everyone
    )
    app.state.settings = settings
    app.state.authenticator = Authenticator(read_key_file(settings.api_keys_file) if settings.api_keys_file else None)
    app.state.secret_keys = read_secret_keys(settings.secret_key_file) if settings.secret_key_file else None
    app.state.host_guard = HostGuard.of(settings)
    app.state.assets = Assets(_ASSET_FOLDERS)
    app.state.is_draining = False
    app.state.replica = None
    app.state.start_error = None
    app.state.answering = None
    problems.install(app)
    _install_metrics(app)
    for router in _ROUTERS:
        app.router.routes.extend(router.routes)  # `include_router` would build them all once more
    return app


def _install_metrics(app: Application) -> None:
    """Gives the application a registry of its own, and counts its requests there."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    app.state.registry = registry
    app.state.http_metrics = HttpMetrics(registry)
    instrumentator = Instrumentator(registry=registry, excluded_handlers=["/metrics"])
    instrumentator.add(partial(_count_request, app.state.http_metrics)).instrument(app)


def _count_request(metrics: HttpMetrics, info: Info) -> None:
    """Counts a request of an ordinary endpoint, as the instrumentator's middleware describes it."""
    received = int(info.request.headers.get("content-length", 0))
    sent = int((info.response.headers.get("content-length") if info.response is not None else None) or 0)
    metrics.answered(info.method, info.modified_handler, info.modified_status, info.modified_duration, received, sent)
