"""A grant, in the form that a front's calls need."""

from functools import partial
from typing import Final

from app.fronts.messages import Grant
from pools.calls import Program
from poolshift.worker.definitions import Definition
from routing.telemetry.call_trace import CallTrace, SpanSink
from routing.telemetry.tracing import Head, Sampling, Tracing
from routing.versions import Decision, Reason, Version

_NO_HEADERS: Final[dict[bytes, bytes]] = {}


class Granted:
    """A grant, in the form that calls need."""

    def __init__(self, grant: Grant, definition: Definition, spans: SpanSink) -> None:
        key, program_id, quarantine_key = grant.program
        self.program = Program(key, program_id, definition)
        self.program.quarantine_key = quarantine_key
        self.epoch = grant.epoch
        self.flow = grant.flow
        self.timeout_s = grant.timeout_s
        ratio, honours_parent = grant.sampling or (0.0, True)
        self._tracing = Tracing(
            Sampling(ratio, honours_parent=honours_parent),
            None if grant.sampling is None else partial(CallTrace, spans),
        )
        self._is_exported = grant.sampling is not None
        self.decision = Decision(Version.V2, Reason(grant.reason))
        self.revision = grant.revision
        self.max_body_bytes = grant.max_body_bytes
        self.version_lines = grant.version_lines

    def head(self, headers: dict[bytes, bytes] | None) -> Head | None:
        """Decides if a call is traced; `headers` are those of a call that has any that concern traces."""
        if headers is None and not self._is_exported:
            return None
        return self._tracing.begin(headers or _NO_HEADERS)
