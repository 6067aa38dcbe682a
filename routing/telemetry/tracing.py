"""Traces of calls, with a span for each part of a call that takes time.

    POST /programs/{program_id}/execute
    ├── route      the version is decided; again if the rollout changes while the call waits
    ├── queue      from there until a worker has it
    └── run        in the pool: one worker, from the request on its pipe to the reply
        └── program    in the worker's process, and under it the spans that the program records

A call is sampled or not at its head, by a flag or a count, before any object is made for its trace.
"""

import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from poolshift.worker.tracing.traceparent import Carried
from routing.telemetry.call_trace import CallTrace, Parent, SpanSink

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?"
)
_MAX_CARRIED_BYTES = 8192
"""Limit of each header, as W3C has it for baggage; longer headers are left out."""
_LOW_64_BITS: Final = 2**64 - 1
_SAMPLED_FLAG = 1
_NEVER: Final = 2**60
"""A number of calls that no process sees."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The share of traces to sample (`ratio`); a trace that comes in goes by its flag, if that is honoured."""

    ratio: float
    honours_parent: bool

    @classmethod
    def named(cls, sampler: str, ratio: float) -> "Sampling":
        """Makes the sampling of OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG."""
        root = sampler.removeprefix("parentbased_")
        return cls({"always_on": 1.0, "always_off": 0.0}.get(root, ratio), honours_parent=root != sampler)


class Head(NamedTuple):
    """The decision at the head of a call: its trace if the call is sampled, else the traceparent to hand on.

    Either way `carried` goes to the worker.
    """

    trace: CallTrace | None = None
    traceparent: str | None = None
    carried: Carried | None = None


_NOTHING: Final = Head()


class Tracing:
    """Begins the traces of calls. Without an export, only the form of a traceparent is checked."""

    def __init__(
        self,
        sampling: Sampling,
        new_trace: Callable[[str, Parent | None], CallTrace] | None,
        sink: SpanSink | None = None,
    ) -> None:
        """Takes `new_trace`, which makes a trace from its id and the caller's span; None if nothing is exported.

        `sink` takes the spans of calls that another process has run.
        """
        self.sink = sink
        self._new_trace = new_trace
        self.sampling = sampling
        # As OpenTelemetry's TraceIdRatioBased has it, so that all services agree on a trace.
        self._bound = round(sampling.ratio * 2**64)
        self._unsampled = self._draw_gap()
        """The calls that begin traces of their own until one of them is sampled."""

    @property
    def exports(self) -> bool:
        """True if the spans of sampled calls go to a collector."""
        return self._new_trace is not None

    def begin(self, headers: Mapping[bytes, bytes]) -> Head:
        """Decides on a call that came in with `headers`; a malformed `traceparent` counts as none."""
        traceparent = headers.get(b"traceparent")
        if traceparent is not None:
            found = _TRACEPARENT.fullmatch(traceparent)
            if found is not None and (found[1] != b"00" or found[5] is None):
                return self._continue(headers, found)
        nothing = _NOTHING if b"baggage" not in headers else Head(carried=_carried(None, _text(headers, b"baggage")))
        trace = self.begin_own()
        return nothing if trace is None else nothing._replace(trace=trace)

    def begin_own(self) -> CallTrace | None:
        """Begins the trace of a call that came without a traceparent, if it is sampled."""
        if self._new_trace is None:
            return None
        if self._unsampled:
            self._unsampled -= 1
            return None
        self._unsampled = self._draw_gap()
        trace_id = random.getrandbits(64) << 64 | random.randrange(self._bound)  # noqa: S311  # no secret
        return self._new_trace(f"{trace_id or 1:032x}", None)

    def _draw_gap(self) -> int:
        """Draws how many calls pass until one is sampled, as a draw for each of them would give it.

        The gaps of independent draws have a geometric distribution, which is drawn by inversion (Devroye, Non-Uniform
        Random Variate Generation, 1986, X.2).
        """
        ratio = self.sampling.ratio
        if not self._bound:
            return _NEVER
        if ratio >= 1.0:
            return 0
        share = random.random()  # noqa: S311  # no secret
        return int(min(math.log1p(-share) / math.log1p(-ratio), _NEVER))

    def carried(self, headers: Mapping[bytes, bytes]) -> Carried | None:
        """Returns the headers that travel to the worker beside the traceparent."""
        return _carried(_text(headers, b"tracestate"), _text(headers, b"baggage"))

    def _continue(self, headers: Mapping[bytes, bytes], found: re.Match[bytes]) -> Head:
        tracestate = _text(headers, b"tracestate")
        carried = _carried(tracestate, _text(headers, b"baggage"))
        if self._new_trace is None:
            return Head(None, found[0].decode(), carried)
        trace_id, parent_id = found[2].decode(), found[3].decode()
        is_flagged = int(found[4], 16) & _SAMPLED_FLAG
        if is_flagged if self.sampling.honours_parent else int(trace_id, 16) & _LOW_64_BITS < self._bound:
            return Head(self._new_trace(trace_id, Parent(parent_id, tracestate)), None, carried)
        return Head(None, f"00-{trace_id}-{parent_id}-00", carried)


def _carried(tracestate: str | None, baggage: str | None) -> Carried | None:
    return None if tracestate is None and baggage is None else Carried(tracestate, baggage)


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return value.decode("latin-1") if value is not None and len(value) <= _MAX_CARRIED_BYTES else None
