"""Cuts the bytes of a connection into requests, and tells plain execute calls from all others.

llhttp parses each head, as it does for uvicorn, once the head is complete. A request's body ends exactly where its head
says. So the reader takes no later byte for a part of the body, and no byte of the body for the next request.
"""

import re
from typing import Final

import httptools

from app.execute.call_head import NO_CALL, CallHead
from app.execute.chunked import ChunkedBody

UNFINISHED: Final = 0
"""The head or the call is not complete yet."""
CALL: Final = 1
"""A complete plain execute call."""
OTHER: Final = 2
"""The complete head of another request."""
MALFORMED: Final = 3
"""Bytes that are not HTTP."""
OVERSIZED: Final = 4
"""A head over `MAX_HEAD_BYTES` or `MAX_HEAD_LINES`."""

MAX_BYTES: Final = 256 * 1024
"""Limit of a call's head and body together. uvloop reads as many bytes at once."""
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEAD_LINES: Final = 256
MAX_KEPT_HEAD_BYTES: Final = 2048
"""A longer head is parsed again each time: every open connection keeps one."""

_HEAD_END: Final = b"\r\n\r\n"
_FEW_BYTES: Final = 2 * MAX_HEAD_LINES
"""A head of at most this many bytes cannot have more than `MAX_HEAD_LINES` lines."""
_LINE_BREAK: Final = b"\r\n"
_CARRIAGE_RETURN: Final = 13
_REQUEST_LINE: Final = re.compile(rb"POST (/programs/[^\x00-\x20%?#\x7f-\xff]{1,256}/execute) HTTP/1\.1\r\n")
_UPGRADE_LINE: Final = re.compile(rb"(?<=\n)upgrade:[^\r\n]*\r\n", re.IGNORECASE)


class RequestReader:
    """Reads the requests of one connection, one after another.

    A plain call is a POST to `/programs/{id}/execute` whose head gives the length of its body, and which asks for one
    answer in one piece. The reader holds it until it is complete.
    """

    def __init__(self) -> None:
        self.call = NO_CALL
        """The head of the last call."""
        self.body = b""
        """The body of the last complete call."""
        self.head = b""
        """The head of the last other request."""
        self.rest = b""
        """Bytes that follow those that the reader took."""
        self._held = bytearray()
        self._head_bytes = 0
        """The length of the head in `_held` while its call's body is incomplete; 0 while the head itself is."""
        self._missing = 0
        """The number of bytes that the body still lacks, if the head gives its length."""
        self._chunks: ChunkedBody | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._length = -1
        self._coding = b""
        self._is_plain = True
        self.stays = False
        """Set if the connection stays open after the answer to the last request."""
        self._is_head_over = False
        self._kept_head = b""
        """The head of an earlier call; `_kept_call` and `_kept_length` are what llhttp found in it."""
        self._kept_call = NO_CALL
        self._kept_length = -1
        self._is_parsed = False
        """Set if llhttp has read the last head."""
        self._parser: httptools.HttpRequestParser | None = None
        """llhttp's parser, between two requests or in a call's body; None if the next head needs a new one."""

    @property
    def is_waiting(self) -> bool:
        """Tells if the reader holds a part of a head or of a call."""
        return bool(self._held)

    @property
    def held(self) -> bytes:
        """All that the reader holds of a head or of a call."""
        return bytes(self._held)

    @property
    def is_in_call(self) -> bool:
        """Tells if the reader holds a call's head and a part of its body is missing."""
        return self._head_bytes > 0

    @property
    def is_read(self) -> bool:
        """Tells if the request of the last head, another than a plain call, has been passed on completely."""
        return not self._missing and self._chunks is None

    def take(self, data: bytes) -> int:
        """Takes bytes of a head or a call, at least one, and returns the kind that they complete."""
        if self._held:
            return self._take_more(data)
        if self._kept_head and data.startswith(self._kept_head):
            # A client's calls of one program often differ in their bodies alone.
            self.call, self._length, self._is_parsed, self.stays = self._kept_call, self._kept_length, False, True
            return self._take_call(data, len(self._kept_head))
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
        """Returns the part of `data` that belongs to the other request's body. `rest` has the bytes behind it."""
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
        """Tells if the body that is passed on has malformed chunks."""
        return self._chunks is not None and self._chunks.is_malformed

    def leave(self) -> None:
        """Turns the incomplete call into another request, and sets its `head` and the `rest`."""
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
        """Drops all state, and the reference cycle of the parser and its reader."""
        self._parser = None
        self._held.clear()

    # --- heads and calls

    def _hold_head(self, data: bytes) -> int:
        if not 65 <= data[0] <= 90:  # no method begins so: a TLS greeting has no end to wait for
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
        return self._take_call(data, end)

    def _take_call(self, data: bytes, end: int) -> int:
        """Takes the body of a call whose head ends at `end`, as much as is there."""
        size = end + self._length
        if len(data) < size:
            self.rest = b""
            self._held += data
            self._head_bytes, self._missing = end, size - len(data)
            return UNFINISHED
        self.body = data[end:size]
        self.rest = data[size:]
        if self._is_parsed:
            self._end_call()
        return CALL

    def _take_body(self, data: bytes) -> int:
        part = data[: self._missing]
        self._held += part
        self._missing -= len(part)
        if self._missing:
            return UNFINISHED
        self.rest = data[len(part) :]
        with memoryview(self._held) as held:  # a slice of `_held` itself would be one more copy
            self.body = bytes(held[self._head_bytes :])
        self._held.clear()
        self._head_bytes = 0
        if self._is_parsed:
            self._end_call()
        return CALL

    def _end_call(self) -> None:
        """Has llhttp, which read the head, read the body."""
        if self.body:
            assert self._parser is not None
            self._parser.feed_data(self.body)

    def _read_head(self, head: bytes) -> int:
        if len(head) > MAX_HEAD_BYTES or (len(head) > _FEW_BYTES and head.count(b"\n") > MAX_HEAD_LINES):
            return OVERSIZED
        self._headers, self._length, self._coding = [], -1, b""
        self._is_plain, self._is_head_over, self._is_parsed = True, False, True
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
        if line is not None and self._is_plain and 0 <= self._length <= MAX_BYTES - len(head):
            self.call = CallHead(line[1].decode(), self._headers)
            if self.stays:
                self._keep(head)
            return CALL
        return self._pass_on_from(head)

    def _keep(self, head: bytes) -> None:
        self._kept_head = head if len(head) <= MAX_KEPT_HEAD_BYTES else b""
        self._kept_call, self._kept_length = self.call, self._length

    def _read_without_upgrade(self, head: bytes) -> int:
        """Reads a request that asks for another protocol as one that does not (RFC 9110, 7.8).

        llhttp would take the body for the other protocol, so the reader removes the Upgrade header first.
        """
        self._parser = None
        without = _UPGRADE_LINE.sub(b"", head)
        return self._read_head(without) if len(without) < len(head) else MALFORMED  # CONNECT

    def _pass_on_from(self, head: bytes) -> int:
        if self._coding not in (b"", b"chunked"):
            return MALFORMED  # the service supports no other coding
        self.head = head
        self._missing = max(0, self._length)
        self._chunks = ChunkedBody() if self._coding else None
        if self._missing or self._coding or not self.stays:
            self._parser = None
        return OTHER

    # --- the parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """Records a header."""
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._coding, self._is_plain = value.lower().strip(), False
        elif name == b"expect" or (name == b"accept" and b"event-stream" in value.lower()):
            self._is_plain = False
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Notes the end of the head, and if the connection stays open after the answer."""
        assert self._parser is not None
        self._is_head_over = True
        self.stays = self._parser.should_keep_alive()
