"""The span of an execute call, by HTTP's semantic conventions, without headers and without the client's address."""

from opentelemetry.semconv.attributes import http_attributes, server_attributes, url_attributes

from app.execute.exchange import Exchange
from app.problems import KINDS
from poolshift.worker.tracing import span_names

HANDLER = "/programs/{program_id}/execute"
NAME = f"POST {HANDLER}"


def attributes(exchange: Exchange) -> dict[str, str | int]:
    """The attributes of a call's span, however far the call came."""
    values: dict[str, str | int] = {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        http_attributes.HTTP_ROUTE: HANDLER,
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
