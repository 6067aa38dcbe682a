"""The head of an execute call, and what it asks for."""

from collections.abc import Iterable
from typing import Final, Literal

from app.execute.streaming import asks_for_events

_JOINED: Final = frozenset({b"accept", b"baggage", b"idempotency-key", b"prefer", b"tracestate"})
"""Headers whose lines are joined: those of lists, and the key, of which two are then refused as none."""


class CallHead:
    """A path and headers. The calls of one connection that have the same head share one, which nobody changes."""

    def __init__(self, path: str, lines: list[tuple[bytes, bytes]]) -> None:
        """Takes the headers with names in lower case."""
        self.path = path
        self.lines = lines
        self.headers = _by_name(lines)
        self.operation = _operation(self.headers)
        """The form of answer that the call asks for, which is also its label in the metrics."""


def _by_name(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name. If one comes twice, its lines are joined (RFC 9110, 5.3) or, of most, the last counts."""
    headers = dict(lines)
    return headers if len(headers) == len(lines) else _joined(lines)


def _joined(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in lines:
        headers[name] = headers[name] + b", " + value if name in _JOINED and name in headers else value
    return headers


def _operation(headers: dict[bytes, bytes]) -> Literal["execute", "stream", "async"]:
    accept = headers.get(b"accept")
    if accept is not None and accept != b"*/*" and asks_for_events(accept):
        return "stream"
    prefer = headers.get(b"prefer")
    return "async" if prefer is not None and _prefers_async(prefer) else "execute"


def _prefers_async(prefer: bytes) -> bool:
    """Tells if a Prefer header (RFC 7240) has `respond-async`."""
    return any(preference.partition(b";")[0].strip().lower() == b"respond-async" for preference in prefer.split(b","))


NO_CALL: Final = CallHead("", [])
"""The head of none, before the first."""
