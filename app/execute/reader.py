"""Cuts the bytes of a connection into requests, and tells plain execute calls from all others.

llhttp parses the heads, as it does for uvicorn, once all of a head is there. A request's body ends here where its head
says: nothing behind it is taken for a part of it, and nothing of it for the next request.
"""

import re
from typing import Final

import httptools

from app.execute.chunked import ChunkedBody

UNFINISHED: Final = 0
"""There is more to come."""
CALL: Final = 1
"""A plain execute call, which is whole."""
OTHER: Final = 2
"""Another request: its head is whole."""
MALFORMED: Final = 3
"""This is no HTTP."""
OVERSIZED: Final = 4
"""A head over `MAX_HEAD_BYTES` or `MAX_HEAD_LINES`."""

MAX_BYTES: Final = 256 * 1024
"""Of a call that is read here. It is also what uvloop reads at once."""
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEAD_LINES: Final = 256

_HEAD_END: Final = b"\r\n\r\n"
_FEW_BYTES: Final = 2 * MAX_HEAD_LINES
"""A head of so few bytes has not more lines."""
_LINE_BREAK: Final = b"\r\n"
_CARRIAGE_RETURN: Final = 13
_REQUEST_LINE: Final = re.compile(rb"POST (/programs/[^\x00-\x20%?#\x7f-\xff]{1,256}/execute) HTTP/1\.1\r\n")
_UPGRADE_LINE: Final = re.compile(rb"(?<=\n)upgrade:[^\r\n]*\r\n", re.IGNORECASE)


class RequestReader:
    """Reads the requests of one connection, one after another.

    A plain call is a POST to `/programs/{id}/execute` with a body of the length that its head gives, and no wish for
    anything but one answer in one piece on a connection that stays. It is held until it is whole.
    """

    def __init__(self) -> None:
        self.target = b""
        """Of a call."""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names are in lower case."""
        self.body = b""
        """Of a call that is whole."""
        self.head = b""
        """Of another request."""
        self.rest = b""
        """The bytes behind those that were taken."""
        self._held = bytearray()
        self._head_bytes = 0
        """Of the call in `_held` whose body is awaited; 0 while its head is."""
        self._missing = 0
        """Bytes of the body that are still to come, if its head gives its length."""
        self._chunks: ChunkedBody | None = None
        self._length = -1
        self._coding = b""
        self._is_plain = True
        self._stays = False
        self._is_head_over = False
        self._parser: httptools.HttpRequestParser | None = None
        """Between two requests, or in a call's body."""

    @property
    def is_waiting(self) -> bool:
        """Whether a part of a head, or of a call, is held."""
        return bool(self._held)

    @property
    def is_in_call(self) -> bool:
        """Whether a call's head is held, and a part of its body is missing."""
        return self._head_bytes > 0

    @property
    def is_read(self) -> bool:
        """Whether the other request, of which the last head was, has been passed on to its end."""
        return not self._missing and self._chunks is None

    def take(self, data: bytes) -> int:
        """Takes bytes of a head or a call, and tells what they make; not empty."""
        if self._held:
            return self._take_more(data)
        if data[0] <= _CARRIAGE_RETURN:
            data = data.lstrip(_LINE_BREAK)  # empty lines before a request (RFC 9112, 2.2)
            if not data:
                self.rest = b""
                return UNFINISHED
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            return self._hold_head(data)
        return self._take_head(data, end)

    def pass_on(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the body of the other request; the `rest` lies behind it."""
        if self._chunks is not None:
            part, self.rest = self._chunks.take(data)
            if self._chunks.is_over:
                self._chunks = None
            return part
        part, self.rest = data[: self._missing], data[self._missing :]
        self._missing -= len(part)
        return part

    @property
    def is_malformed(self) -> bool:
        """Whether the chunks of the body that is passed on make no sense."""
        return self._chunks is not None and self._chunks.is_malformed

    def leave(self) -> None:
        """Makes the call whose body is missing another request: its `head` and the `rest` are there."""
        held = bytes(self._held)
        self._held.clear()
        self.head, self.rest, self._head_bytes, self._parser = (
            held[: self._head_bytes],
            held[self._head_bytes :],
            0,
            None,
        )
        self._missing = self._length

    def close(self) -> None:
        """Forgets everything; the parser and its reader hold each other."""
        self._parser = None
        self._held.clear()

    # --- heads and calls

    def _hold_head(self, data: bytes) -> int:
        if not 65 <= data[0] <= 90:  # no method begins so: nobody waits for the end of a TLS greeting
            return MALFORMED
        self.rest = b""
        self._held += data
        return UNFINISHED if len(data) <= MAX_HEAD_BYTES else OVERSIZED

    def _take_more(self, data: bytes) -> int:
        if self._head_bytes:
            return self._take_body(data)
        searched = max(0, len(self._held) - len(_HEAD_END))
        self._held += data
        end = self._held.find(_HEAD_END, searched) + len(_HEAD_END)
        if end < len(_HEAD_END):
            return UNFINISHED if len(self._held) <= MAX_HEAD_BYTES else OVERSIZED
        held = bytes(self._held)
        self._held.clear()
        return self._take_head(held, end)

    def _take_head(self, data: bytes, end: int) -> int:
        kind = self._read_head(data[:end])
        if kind != CALL:
            self.rest = data[end:]
            return kind
        size = end + self._length
        if len(data) < size:
            self.rest = b""
            self._held += data
            self._head_bytes, self._missing = end, size - len(data)
            return UNFINISHED
        self.body = data[end:size]
        self.rest = data[size:]
        self._end_call()
        return CALL

    def _take_body(self, data: bytes) -> int:
        part = data[: self._missing]
        self._held += part
        self._missing -= len(part)
        if self._missing:
            return UNFINISHED
        self.rest = data[len(part) :]
        self.body = bytes(self._held[self._head_bytes :])
        self._held.clear()
        self._head_bytes = 0
        self._end_call()
        return CALL

    def _end_call(self) -> None:
        assert self._parser is not None
        if self.body:
            self._parser.feed_data(self.body)

    def _read_head(self, head: bytes) -> int:
        if len(head) > MAX_HEAD_BYTES or (len(head) > _FEW_BYTES and head.count(b"\n") > MAX_HEAD_LINES):
            return OVERSIZED
        self.headers, self._length, self._coding = [], -1, b""
        self._is_plain, self._is_head_over = True, False
        parser = self._parser = self._parser or httptools.HttpRequestParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            return self._read_without_upgrade(head)
        except httptools.HttpParserError:
            return MALFORMED
        if not self._is_head_over:
            return MALFORMED
        line = _REQUEST_LINE.match(head)
        if line is not None and self._is_plain and self._stays and 0 <= self._length <= MAX_BYTES - len(head):
            self.target = line[1]
            return CALL
        return self._pass_on_from(head)

    def _read_without_upgrade(self, head: bytes) -> int:
        """Reads a request that asks for another protocol as one that does not (RFC 9110, 7.8).

        llhttp takes its body for the other protocol, so the wish for one is left out before anybody reads it.
        """
        self._parser = None
        without = _UPGRADE_LINE.sub(b"", head)
        return self._read_head(without) if len(without) < len(head) else MALFORMED  # CONNECT, which nobody serves

    def _pass_on_from(self, head: bytes) -> int:
        if self._coding not in (b"", b"chunked"):
            return MALFORMED  # nobody here undoes another coding
        self.head = head
        self._missing = max(0, self._length)
        self._chunks = ChunkedBody() if self._coding else None
        if self._missing or self._coding or not self._stays:
            self._parser = None
        return OTHER

    # --- what the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._coding, self._is_plain = value.lower().strip(), False
        elif name == b"expect" or (name == b"accept" and b"event-stream" in value.lower()):
            self._is_plain = False
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is over; where nothing follows it, so is what the parser knows of it."""
        assert self._parser is not None
        self._is_head_over = True
        self._stays = self._parser.should_keep_alive()
