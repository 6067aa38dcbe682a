"""Tells execute calls from all else that arrives on a connection, and reads them.

llhttp parses their heads, as it does for uvicorn. What is not plainly one execute call is left to uvicorn as it came.
"""

import re
from typing import Final

import httptools

_HEAD_END: Final = b"\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"POST (/programs/[^\x00-\x20%?#\x7f-\xff]{1,256}/execute) HTTP/1\.1\r\n")
_ODD_HEADERS: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
MAX_BYTES: Final = 256 * 1024
"""Of a call that is read here. It is also what uvloop reads at once."""


class CallReader:
    """Reads the calls of one connection, one after another.

    A call is a POST to `/programs/{id}/execute` with its head in one piece, a body of the length that it gives, nothing
    behind it, and no wish for anything but one answer in one piece on a connection that stays.
    """

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names are in lower case."""
        self._pieces: list[bytes] = []
        self._head_bytes = 0
        self._missing = 0
        self._body_bytes = -1
        self._is_plain = True
        self._stays = False
        self._parser: httptools.HttpRequestParser | None = None
        """Between two calls, or in one's body."""

    @property
    def is_waiting(self) -> bool:
        """Whether it holds a part of a call."""
        return bool(self._pieces)

    @property
    def is_whole(self) -> bool:
        """Whether all of the call has arrived."""
        return not self._missing

    def take(self, data: bytes) -> bool:
        """Holds what has arrived; False where that is no call, or none any more: it is to be released then."""
        if self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            return self._missing >= 0
        self._pieces.append(data)
        head_bytes = data.find(_HEAD_END) + len(_HEAD_END)
        if head_bytes < len(_HEAD_END) or not self._is_call(data[:head_bytes]):
            return False
        self._head_bytes = head_bytes
        size = head_bytes + self._body_bytes
        self._missing = size - len(data)
        return self._missing >= 0 and size <= MAX_BYTES

    def body(self) -> bytes:
        """The body of the call, which is whole. The next may come."""
        assert self._parser is not None
        body = self._take_pieces()[self._head_bytes :]
        self._parser.feed_data(body)
        return body

    def release(self) -> bytes:
        """All that it holds."""
        self._parser = None
        return self._take_pieces()

    def _take_pieces(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._missing = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _is_call(self, head: bytes) -> bool:
        line = _REQUEST_LINE.match(head)
        if line is None:
            return False
        self.target = line[1]
        self.headers, self._body_bytes, self._is_plain, self._stays = [], -1, True, False
        parser = self._parser = self._parser or httptools.HttpRequestParser(self)
        try:
            parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        return self._is_plain and self._body_bytes >= 0 and self._stays

    # --- what the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        name = name.lower()
        if name == b"content-length":
            self._body_bytes = int(value)
        elif name in _ODD_HEADERS or (name == b"accept" and b"event-stream" in value.lower()):
            self._is_plain = False
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is over; where nothing follows it, so is what the parser knows of it."""
        assert self._parser is not None
        self._stays = self._parser.should_keep_alive()
