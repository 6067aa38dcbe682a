"""Frames over a pipe or a stream socket: a 4-byte big-endian length, then that many bytes."""

import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""A longer frame is garbage or a mistake; neither end reads or writes one."""

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The errors that msgspec raises if bytes from another process are not JSON, or not the JSON that is expected."""

MAX_COPIED_BYTES: Final = 16 * 1024
"""A copy of this size costs less than a view and its use."""
PIPE_BYTES: Final = 64 * 1024
"""The room of a new pipe."""
MAX_PIPE_BYTES: Final = 1024 * 1024
"""The most room that Linux gives a pipe of a process without privileges."""

_LENGTH: Final = struct.Struct(">I")
_LENGTH_BYTES: Final = 4
_LENGTHS: Final = struct.Struct(">II")
_pack_lengths: Final = _LENGTHS.pack
READ_BYTES: Final = 256 * 1024
"""The size of one read. A larger one costs no more than a small one as long as malloc keeps the memory of both."""


class FrameError(Exception):
    """The bytes that came are not a frame, or a frame is over the limit."""


def frame(payload: bytes) -> bytes:
    """The bytes to send for `payload`.

    Raises:
        FrameError: the payload is over `MAX_FRAME_BYTES`.
    """
    return _LENGTH.pack(_checked(len(payload))) + payload


def frame_of_two(head: bytes, body: bytes | memoryview | msgspec.Raw) -> bytes:
    """The bytes to send for a payload of two parts, which `cut_in_two` cuts apart again.

    Raises:
        FrameError: the payload is over `MAX_FRAME_BYTES`.
    """
    return b"".join((lengths_of_two(len(head), len(body)), head, body))


def start_of_two(head: bytes, size: int) -> bytes:
    """The bytes to send before a second part of `size` bytes, for a sender that does not copy a large one.

    Raises:
        FrameError: the payload is over `MAX_FRAME_BYTES`.
    """
    return lengths_of_two(len(head), size) + head


def lengths_of_two(head_size: int, body_size: int) -> bytes:
    """The bytes to send before the two parts themselves.

    Raises:
        FrameError: the payload is over `MAX_FRAME_BYTES`.
    """
    return _pack_lengths(_checked(_LENGTH_BYTES + head_size + body_size), head_size)


def cut_in_two(payload: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """The two parts of a payload. A body of over `MAX_COPIED_BYTES` is a view of it, and no copy.

    Raises:
        FrameError: the payload is shorter than it says.
    """
    size = len(payload)
    if size < _LENGTH_BYTES:
        raise FrameError(f"a payload of {size} bytes has no head")
    if isinstance(payload, bytes) and size <= MAX_COPIED_BYTES:
        end = _LENGTH_BYTES + _length_of(payload)
        if end <= size:
            return payload[_LENGTH_BYTES:end], payload[end:]
    end = _LENGTH_BYTES + _LENGTH.unpack_from(payload)[0]
    if end > size:
        raise FrameError(f"a payload of {size} bytes claims a head up to byte {end}")
    return bytes(payload[_LENGTH_BYTES:end]), memoryview(payload)[end:]


def _length_of(data: bytes) -> int:
    """The length at the start of `data`. Compiled, this is a few instructions, and a `Struct` takes hundreds."""
    return data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]


def _checked(size: int) -> int:
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
    return size


class FrameDecoder:
    """Cuts a byte stream into payloads; feed it what arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_amid_frame(self) -> bool:
        """Tells if a part of a payload has arrived, and not all of it."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterable[bytes | memoryview]:
        """The payloads that `data` completes; a large one may be a view. Consume all of them before feeding more data.

        Raises:
            FrameError: a length is over `MAX_FRAME_BYTES`.
        """
        size = len(data) - _LENGTH_BYTES
        if not self._buffer and size >= 0 and _length_of(data) == size:
            return (data[_LENGTH_BYTES:],)  # the usual case: one whole frame in one read
        self._buffer += data
        return self._completed()

    def _completed(self) -> Iterator[bytes | memoryview]:
        while len(self._buffer) >= _LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame claims {length} bytes; the limit is {MAX_FRAME_BYTES}")
            if len(self._buffer) < _LENGTH_BYTES + length:
                return
            if length > MAX_COPIED_BYTES and len(self._buffer) == _LENGTH_BYTES + length:
                whole, self._buffer = self._buffer, bytearray()
                yield memoryview(whole)[_LENGTH_BYTES:]
                return
            with memoryview(self._buffer) as view:  # a slice of the buffer itself would be one more copy
                payload = bytes(view[_LENGTH_BYTES : _LENGTH_BYTES + length])
            del self._buffer[: _LENGTH_BYTES + length]
            yield payload


def read_frames(sock: socket.socket) -> Iterator[bytes | memoryview]:
    """The payloads that arrive on a blocking socket, until the other end closes it."""
    decoder = FrameDecoder()
    while data := sock.recv(READ_BYTES):
        yield from decoder.feed(data)


def read_pairs(fd: int) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """The two parts of each payload that arrives on a descriptor that blocks (the worker's side), until its end.

    Raises:
        FrameError: a length is over `MAX_FRAME_BYTES`, or a payload is shorter than it says.
    """
    decoder = FrameDecoder()
    while data := os.read(fd, READ_BYTES):
        size = len(data)
        if size >= _LENGTHS.size and not decoder.is_amid_frame:
            length, head_size = _LENGTHS.unpack_from(data)
            if length == size - _LENGTH_BYTES and head_size <= size - _LENGTHS.size:
                # One whole frame in one read, as usual, is cut by two slices.
                end = _LENGTHS.size + head_size
                yield data[_LENGTHS.size : end], data[end:] if size <= MAX_COPIED_BYTES else memoryview(data)[end:]
                continue
        for payload in decoder.feed(data):
            yield cut_in_two(payload)


def write_all(fd: int, data: bytes, rest: bytes | memoryview = b"") -> None:
    """Writes `data`, and `rest` behind it without a copy, to a descriptor that blocks.

    Raises:
        OSError: it cannot be written to any more.
    """
    sent = os.writev(fd, (data, rest)) if rest else os.write(fd, data)
    while sent < len(data):
        sent += os.write(fd, memoryview(data)[sent:])
    while sent < len(data) + len(rest):
        sent += os.write(fd, memoryview(rest)[sent - len(data) :])


def make_room(fd: int, size: int, room: int) -> int:
    """Gives a pipe that has `room` bytes enough of it for `size` bytes, if it can, and returns its room from then on.

    A frame that fits into its pipe takes one write and one read, and lets neither end wait for the other.
    """
    if size <= room or room >= MAX_PIPE_BYTES:
        return room
    try:
        return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, min(size, MAX_PIPE_BYTES))
    except OSError:
        return MAX_PIPE_BYTES  # it is a socket, or its user has too much room: nobody tries again
