"""The head of an execute call, and what it asks for."""

from collections.abc import Iterable
from typing import Final, Literal

from app.access.auth import Principal
from app.execute.streaming import asks_for_events

FORCED_VERSION: Final = b"x-pool-version"
IDEMPOTENCY_KEY: Final = b"idempotency-key"
PREFIX: Final = "/programs/"
SUFFIX: Final = "/execute"
_MAX_CANARY_KEY_LENGTH: Final = 256
_TRACE_HEADERS: Final = (b"traceparent", b"baggage")

_JOINED: Final = frozenset({b"accept", b"baggage", b"idempotency-key", b"prefer", b"tracestate"})
"""Headers whose lines are joined: those of lists, and the key, of which two are then refused as none."""


class CallHead:
    """A path and headers, and what they mean: found out once for all calls of a connection that have the same head."""

    def __init__(self, path: str, lines: list[tuple[bytes, bytes]]) -> None:
        """Takes the headers with names in lower case."""
        self.path = path
        self.lines = lines
        self.headers = _by_name(lines)
        self.operation = _operation(self.headers)
        """The form of answer that the call asks for, which is also its label in the metrics."""
        self.program_id = path[len(PREFIX) : -len(SUFFIX)]
        self.is_plain = self.operation == "execute" and IDEMPOTENCY_KEY not in self.headers
        """Set if a call asks for one answer, and has no key."""
        self.is_forced = FORCED_VERSION in self.headers
        self.has_trace = any(name in self.headers for name in _TRACE_HEADERS)
        """Set if a call comes with a trace of its sender's, or with what travels along one."""
        self.canary_key = _canary_key(self.headers)
        """The key that the split goes by if there is no session."""
        self.principal: Principal | None = None
        """The sender of all calls that have this head, once it is known and as long as the same keys are valid."""
        self.keys_revision = 0
        """The revision of the keys that told `principal`."""


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


def _canary_key(headers: dict[bytes, bytes]) -> str | None:
    value = headers.get(b"x-canary-key")
    return value[:_MAX_CANARY_KEY_LENGTH].decode("latin-1") if value else None


def _prefers_async(prefer: bytes) -> bool:
    """Tells if a Prefer header (RFC 7240) has `respond-async`."""
    return any(preference.partition(b";")[0].strip().lower() == b"respond-async" for preference in prefer.split(b","))


NO_CALL: Final = CallHead("", [])
"""The head of none, before the first."""
