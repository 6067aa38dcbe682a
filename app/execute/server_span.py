"""The span of an execute call, by HTTP's semantic conventions, without headers and without the client's address."""

from opentelemetry.semconv.attributes import http_attributes, server_attributes, url_attributes
from starlette.types import Scope

from app.problems import KINDS
from pools.calls import Program
from poolshift.worker.tracing import span_names

HANDLER = "/programs/{program_id}/execute"
NAME = f"POST {HANDLER}"


def attributes(scope: Scope, execution_id: str, program: Program | None) -> dict[str, str | int]:
    """What is known of a call whatever became of it; `program` None where it was not found."""
    values: dict[str, str | int] = {
        http_attributes.HTTP_REQUEST_METHOD: scope["method"],
        http_attributes.HTTP_ROUTE: HANDLER,
        url_attributes.URL_PATH: scope["path"],
        url_attributes.URL_SCHEME: scope["scheme"],
        span_names.EXECUTION_ID: execution_id,
    }
    if scope["server"] is not None:
        host, port = scope["server"]
        values[server_attributes.SERVER_ADDRESS] = host
        if port is not None:
            values[server_attributes.SERVER_PORT] = port
    if program is not None:
        values[span_names.PROGRAM_ID] = program.id
    return values


def fault(code: str | None) -> str | None:
    """The code of an error, but for a 4xx, which is no error of a server's span."""
    return code if code is not None and KINDS[code].status >= 500 else None
