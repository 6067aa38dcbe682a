"""Trace files: JSON lines, one for each call, read without being held in memory."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import msgspec


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
    cost: float = 0.0


class _Outline(msgspec.Struct, frozen=True):
    """The fields of a line that tell the plan."""

    w: float
    program: str = ""


_Line = TypeVar("_Line", RecordedCall, _Outline)


class TraceFile:
    """One trace, by its path; `-` is standard input."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._piped: bytes | None = sys.stdin.buffer.read() if path == "-" else None

    def outline(self) -> tuple[set[float], int]:
        """Reads the trace once; returns its canary probabilities and the number of its programs."""
        steps: set[float] = set()
        programs: set[str] = set()
        for line in self._lines(msgspec.json.Decoder(_Outline)):
            steps.add(line.w)
            if len(programs) <= 256:
                programs.add(line.program)
        return steps, len(programs)

    def calls(self) -> Iterator[RecordedCall]:
        """Reads the trace again, call by call."""
        yield from self._lines(msgspec.json.Decoder(RecordedCall))

    def _lines(self, decoder: "msgspec.json.Decoder[_Line]") -> Iterator[_Line]:
        number = 0
        decode = decoder.decode
        try:
            with self._open() as file:
                for number, raw in enumerate(file, 1):
                    if raw.isspace():
                        continue
                    line = decode(raw)
                    if not 0.0 <= line.w <= 1.0:
                        raise UnreadableTrace(f"{self._path}, line {number}: w is {line.w:g}, not a probability")
                    yield line
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnreadableTrace(f"{self._path}, line {number}: {error}") from None
        except OSError as error:
            raise UnreadableTrace(f"{self._path}: {error.strerror or error}") from None

    def _open(self) -> BinaryIO:
        return io.BytesIO(self._piped) if self._piped is not None else Path(self._path).open("rb")
