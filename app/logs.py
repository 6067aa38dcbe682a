"""Structured logs: everything, uvicorn's and the libraries' lines too, as one stream of JSON or console lines."""

import logging
import sys
from contextvars import ContextVar
from typing import Literal, Protocol

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from common.log_budget import LineBudget

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class CallInLog(Protocol):
    """The ids that a log line about a call contains."""

    @property
    def execution_id(self) -> str: ...

    @property
    def trace_id(self) -> str | None: ...


_MAX_WARNINGS_PER_S = 5
"""The most warnings of uvicorn in a second. It logs one for each request that is not HTTP, from anybody."""

current_call: ContextVar[CallInLog] = ContextVar("current_call")
"""Set at the head of each call: cheaper than binding its ids, which most calls would never log."""


_replica: int | None = None
"""The number of this process among the replicas of its machine, if there are several."""

_WITH_LINES = frozenset({"exception", "stack"})
"""Fields that the console shows below their line, and over several lines."""
_INDENT = "    "
_log = structlog.stdlib.get_logger("poolshift.http")


def configure_logs(log_format: LogFormat, level: LogLevel = "info") -> None:
    """Sends all logging to standard error in `log_format`. For a program's start; a library never calls it."""
    shared: list[Processor] = [
        _add_call,
        _add_replica,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(log_format)],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("uvicorn.error").addFilter(_WarningBudget())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs what is stored, with the keys of LMs
    # At DEBUG it logs each change in a watched folder, and so each line of a log file there: without end.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    # Its traceback comes at each look at the flag; `routing.rollout.provider` logs the same failure once, in one line.
    logging.getLogger("openfeature").setLevel(logging.CRITICAL)
    for client in ("httpx", "httpcore"):
        logging.getLogger(client).setLevel(logging.WARNING)  # below they log addresses, and so the webhook's token


class _WarningBudget(logging.Filter):
    """Lets through so many warnings a second; the others are counted."""

    def __init__(self) -> None:
        super().__init__()
        self._budget: LineBudget | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        if self._budget is None:
            try:
                self._budget = LineBudget(lines=_MAX_WARNINGS_PER_S, size=1024 * 1024, tell=_tell_left_out)
            except RuntimeError:
                return True  # no event loop, and so no server either
        return self._budget.admits(len(record.msg))


def _tell_left_out(count: int) -> None:
    _log.warning("requests were malformed, without a line for each", count=count)


def _add_call(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The ids of the call within which this is logged, unless the line says of itself what it is about."""
    call = current_call.get(None)
    if call is not None and "execution_id" not in event:
        event["execution_id"] = call.execution_id
        if call.trace_id is not None:
            event["trace_id"] = call.trace_id
    return event


def name_replica(index: int) -> None:
    """Has each line of this process tell which replica of the machine it is."""
    global _replica  # noqa: PLW0603  # as much a process's own as its standard error
    _replica = index


def _add_replica(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if _replica is not None and "replica" not in event:
        event["replica"] = _replica
    return event


def _renderers(log_format: LogFormat) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.processors.format_exc_info,
        _below,
        _escape,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback),
    ]


def _below(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Shows the traceback of a program as one of the service's own: below its line, and over several lines."""
    if isinstance(event.get("traceback"), str) and "exception" not in event:
        event["exception"] = event.pop("traceback").rstrip("\n")
    return event


def _escape(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    r"""Escapes control characters: a program or a client cannot write a line of its own, nor move a terminal's cursor.

    Tracebacks keep their lines, all of them indented, and so do the service's own messages from the second line on: a
    line of the log begins with its time. What a worker's program says has a `source`, and stays one line.
    """
    for name, value in event.items():
        text = value if isinstance(value, str) else str(value)
        if name in _WITH_LINES:
            event[name] = _INDENT + _indented(text)
        elif text.isprintable():
            continue
        elif name == "event" and "source" not in event:
            event[name] = _indented(text)
        elif isinstance(value, str):
            event[name] = _escaped(value)
        else:
            event[name] = _escaped(repr(value))
    return event


def _indented(text: str) -> str:
    return f"\n{_INDENT}".join(map(_escaped, text.split("\n")))


def _escaped(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
