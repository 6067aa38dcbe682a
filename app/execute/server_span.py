"""The span of an execute call, by HTTP's semantic conventions, without headers and without the client's address."""

from opentelemetry.semconv.attributes import http_attributes, server_attributes, url_attributes

from app.execute.exchange import Exchange
from app.problem_kinds import KINDS
from poolshift.worker.tracing import span_names

HANDLER = "/programs/{program_id}/execute"
BATCH_HANDLER = "/programs/{program_id}/batch"
NAME = f"POST {HANDLER}"
BATCH_NAME = f"POST {BATCH_HANDLER}"
"""The spans' names. Each item of a batch has a span of its own."""


def name_of(exchange: Exchange) -> str:
    """The name of a call's span."""
    return BATCH_NAME if exchange.is_item else NAME


def attributes(exchange: Exchange) -> dict[str, str | int]:
    """The attributes of a call's span, however far the call came."""
    values: dict[str, str | int] = {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        http_attributes.HTTP_ROUTE: BATCH_HANDLER if exchange.is_item else HANDLER,
        url_attributes.URL_PATH: exchange.path,
        url_attributes.URL_SCHEME: exchange.scheme,
        span_names.EXECUTION_ID: exchange.execution_id,
    }
    if exchange.address is not None:
        host, port = exchange.address
        values[server_attributes.SERVER_ADDRESS] = host
        if port is not None:
            values[server_attributes.SERVER_PORT] = port
    if exchange.program is not None:
        values[span_names.PROGRAM_ID] = exchange.program.id
    return values


def fault(code: str | None) -> str | None:
    """The code of an error; None for a 4xx, which is no error of a server's span."""
    return code if code is not None and KINDS[code].status >= 500 else None
