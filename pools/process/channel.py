"""The service's end of the pipes to and from one worker, or of a stream socket, on the event loop."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from pools.process.ends import close_all
from poolshift.worker.framing import MAX_COPIED_BYTES, PIPE_BYTES, READ_BYTES, FrameDecoder, FrameError, make_room

_read: Final = os.read
_write: Final = os.write
_LENGTH_BYTES: Final = 4


class Channel:
    """Sends frames without blocking and hands on each payload that arrives.

    It reads and writes the descriptors itself, since a transport would cost every call another turn of the event loop.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        on_payload: Callable[[bytes | memoryview], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        """Takes over both descriptors, which are the same if they are a socket's, and closes them if it raises.

        `on_end` is called once: with None when the worker closed its end, with the fault when it sent garbage.
        """
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._on_payload = on_payload
        self._on_end = on_end
        self._decoder = FrameDecoder()
        self._is_amid_frame = False
        """Set while the decoder holds a part of a frame."""
        self._unsent: deque[memoryview] = deque()
        self._room = PIPE_BYTES
        """The room of the pipe to the worker."""
        self._open = True
        self._reading = False
        self._loop = asyncio.get_running_loop()
        try:
            os.set_blocking(read_fd, False)
            os.set_blocking(write_fd, False)
            self._watch()
        except BaseException:
            close_all({read_fd, write_fd})
            raise

    def send(self, data: bytes, rest: bytes | memoryview = b"") -> bool:
        """Sends `data`, and `rest` behind it without a copy, as soon as the worker takes them.

        Returns False if the worker has surely got none of it, and is lost.
        """
        if not self._open:
            return False
        sent = 0
        if len(data) + len(rest) > self._room:
            self._room = make_room(self._write_fd, len(data) + len(rest), self._room)
        if not self._unsent:
            try:
                sent = os.writev(self._write_fd, (data, rest)) if rest else _write(self._write_fd, data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                return False  # the reader sees the same end
        if sent < len(data) + len(rest):
            return self._send_later(data, sent, rest)
        return True

    def _send_later(self, data: bytes, sent: int, rest: bytes | memoryview) -> bool:
        if not self._unsent:
            try:
                self._loop.add_writer(self._write_fd, self._writable)
            except OSError as error:
                self._end(f"cannot be written to: {error}")
                return sent > 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
        if rest:
            self._unsent.append(memoryview(rest)[max(0, sent - len(data)) :])
        return True

    def pause_reading(self) -> None:
        """Leaves what the worker sends in the pipe; once that is full, the worker waits."""
        if self._reading:
            self._reading = False
            try:
                self._loop.remove_reader(self._read_fd)
            except OSError:
                pass  # the kernel does not know it any more

    def resume_reading(self) -> None:
        """Takes what the worker sends again."""
        if self._open and not self._reading:
            try:
                self._watch()
            except OSError as error:
                self._end(f"cannot be read from: {error}")

    def drain(self) -> None:
        """Takes what a worker that is dead had still sent."""
        while self._open and self._readable():
            pass

    def finish(self) -> None:
        """Sends nothing more over a socket, and reads until the other end closes."""
        if self._open:
            self._forget_writer()
            sock = socket.socket(fileno=self._write_fd)
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # broken already, which the reader sees
            finally:
                sock.detach()

    def close(self) -> None:
        """Closes the descriptors; the worker, if it lives, sees the end of its requests and exits."""
        if self._open:
            self._open = False
            self.pause_reading()
            self._forget_writer()
            close_all({self._read_fd, self._write_fd})

    def _watch(self) -> None:
        self._loop.add_reader(self._read_fd, self._readable)
        self._reading = True

    def _readable(self) -> bool:
        """Reads once; False if there was nothing to read."""
        try:
            data = _read(self._read_fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._end(None)
            return True
        if not self._is_amid_frame and _is_frame(data):  # the usual case: one whole frame in one read
            is_large = len(data) > MAX_COPIED_BYTES
            self._on_payload(memoryview(data)[_LENGTH_BYTES:] if is_large else data[_LENGTH_BYTES:])
            return True
        try:
            for payload in self._decoder.feed(data):
                self._on_payload(payload)
            self._is_amid_frame = self._decoder.is_amid_frame
        except FrameError as error:
            self._end(str(error))
        return True

    def _writable(self) -> None:
        part = self._unsent[0]
        try:
            sent = os.write(self._write_fd, part)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._unsent.clear()
        else:
            self._unsent.popleft()
            if sent < len(part):
                self._unsent.appendleft(part[sent:])
        if not self._unsent:
            self._forget_writer()

    def _forget_writer(self) -> None:
        try:
            self._loop.remove_writer(self._write_fd)
        except OSError:
            pass  # the kernel does not know it any more

    def _end(self, fault: str | None) -> None:
        self.close()
        self._on_end(fault)


def _is_frame(data: bytes) -> bool:
    """Tells if these bytes are one whole frame. Reads its length by itself: compiled, that is a few instructions."""
    size = len(data) - _LENGTH_BYTES
    return size >= 0 and data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3] == size
