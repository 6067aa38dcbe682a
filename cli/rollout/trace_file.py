"""Trace files: JSON lines, one for each call, read without being held in memory."""

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import msgspec

from analysis.planning.replay import FedEvidence
from analysis.verdict import Evidence

_Line = TypeVar("_Line")


class UnreadableTrace(Exception):
    """A trace that cannot be read; the message names the file and the line."""


class RecordedCall(msgspec.Struct, frozen=True):
    """A line of a trace. `cold`, `attempts` and `cost` are optional: only the live judge knows them."""

    t: float
    w: float
    arm: Literal["v1", "v2"]
    outcome: str
    ms: float | None = None
    key: str | None = None
    program: str = ""
    cold: bool = False
    attempts: tuple[str, ...] = ()
    cost: float | None = 0.0


class _NotWorse(msgspec.Struct, frozen=True):
    log_e: float
    threshold: float


class _FedLine(msgspec.Struct, frozen=True):
    """A line of a trace that is no call: what a guardrail that is fed said from then on."""

    t: float
    fed: str
    log_e: float
    threshold: float
    action: str = "pause"
    stratum: str = "all"
    not_worse: _NotWorse | None = None

    def told(self) -> FedEvidence:
        """Returns the evidence for the judge."""
        shown = self.not_worse
        return FedEvidence(
            self.t,
            self.action,
            Evidence(self.fed, self.log_e, self.threshold, self.stratum),
            None if shown is None else Evidence(self.fed, shown.log_e, shown.threshold),
        )


class _Outline(msgspec.Struct, frozen=True):
    """The fields of a line that tell the plan, and what kind of line it is."""

    w: float
    program: str = ""
    fed: str | None = None
    action: str = "pause"
    promotes: bool = False


@dataclass
class Outline:
    """The parts of a plan that a trace tells: the canary probabilities, the programs, and guardrails that are fed."""

    steps: set[float] = field(default_factory=set)
    programs: int = 0
    actions: dict[str, str] = field(default_factory=dict)
    """The action of each guardrail that is fed."""
    promotes: set[str] = field(default_factory=set)
    """The fed guardrails that promotion waits for."""


class TraceFile:
    """One trace, by its path; `-` is standard input."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._piped: bytes | None = sys.stdin.buffer.read() if path == "-" else None

    def outline(self) -> Outline:
        """Reads the trace once."""
        found, programs = Outline(), set[str]()
        decode = msgspec.json.Decoder(_Outline).decode
        for number, raw in self._lines():
            line = self._decoded(decode, number, raw)
            if line.fed is not None:
                found.actions[line.fed] = line.action
                found.promotes |= {line.fed} if line.promotes else set()
                continue
            found.steps.add(line.w)
            if len(programs) <= 256:
                programs.add(line.program)
        found.programs = len(programs)
        return found

    def calls(self) -> Iterator[RecordedCall | FedEvidence]:
        """Reads the trace again, line by line."""
        outline, call = msgspec.json.Decoder(_Outline).decode, msgspec.json.Decoder(RecordedCall).decode
        fed = msgspec.json.Decoder(_FedLine).decode
        for number, raw in self._lines():
            if b'"fed"' in raw and self._decoded(outline, number, raw).fed is not None:
                yield self._decoded(fed, number, raw).told()
                continue
            line = self._decoded(call, number, raw)
            if not 0.0 <= line.w <= 1.0:
                raise UnreadableTrace(f"{self._path}, line {number}: w is {line.w:g}, not a probability")
            yield line

    def _decoded(self, decode: Callable[[bytes], _Line], number: int, raw: bytes) -> _Line:
        try:
            return decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnreadableTrace(f"{self._path}, line {number}: {error}") from None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self._open() as file:
                for number, raw in enumerate(file, 1):
                    if not raw.isspace():
                        yield number, raw
        except OSError as error:
            raise UnreadableTrace(f"{self._path}: {error.strerror or error}") from None

    def _open(self) -> BinaryIO:
        return io.BytesIO(self._piped) if self._piped is not None else Path(self._path).open("rb")
