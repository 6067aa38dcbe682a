"""Finds the end of a chunked body (RFC 9112, 7.1), and leaves its trailers out."""

import re
from typing import Final

_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,12})(?:;[^\r\n]*)?\r\n")
_MAX_LINE_BYTES: Final = 4096
_MAX_TRAILER_BYTES: Final = 16 * 1024


class ChunkedBody:
    """A chunked body while it arrives, in pieces of any size.

    uvicorn's parser reads the same bytes and checks them; what this one does not understand ends the connection.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.is_malformed = False
        self._missing = 0
        """Bytes of the chunk, with the line break behind it."""
        self._line = bytearray()
        """The part of a line that has arrived."""
        self._is_in_trailers = False
        self._trailer_bytes = 0

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Splits `data` into the part that belongs to the body, without trailers, and what lies behind the body."""
        begin, kept = 0, 0
        while begin < len(data) and not self.is_over and not self.is_malformed:
            was_in_trailers = self._is_in_trailers
            if self._missing:
                step = min(self._missing, len(data) - begin)
                self._missing -= step
                begin += step
            else:
                begin = self._take_line(data, begin)
            if not was_in_trailers:
                kept = begin
        return data[:kept] + (b"\r\n" if self.is_over else b""), data[begin:]

    def _take_line(self, data: bytes, begin: int) -> int:
        end = data.find(b"\n", begin) + 1
        self._line += data[begin : end or len(data)]
        if end:
            line = bytes(self._line)
            self._line.clear()
            self._read_line(line)
        elif len(self._line) > _MAX_LINE_BYTES:
            self.is_malformed = True
        return end or len(data)

    def _read_line(self, line: bytes) -> None:
        if self._is_in_trailers:
            self._trailer_bytes += len(line)
            self.is_over = line == b"\r\n"
            self.is_malformed = not line.endswith(b"\r\n") or self._trailer_bytes > _MAX_TRAILER_BYTES
            return
        size = _SIZE.fullmatch(line)
        if size is None:
            self.is_malformed = True
            return
        length = int(size[1], 16)
        self._is_in_trailers = length == 0
        self._missing = length + 2 if length else 0
