"""The service's end of one worker's socket, on the event loop."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from poolshift.worker.framing import READ_BYTES, FrameDecoder, FrameError


class Channel:
    """Sends frames without blocking and hands on each payload that arrives.

    It talks to the socket itself, since a transport would cost every call another turn of the event loop.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_payload: Callable[[bytes | memoryview], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        """Takes over `sock`, which is closed if this raises.

        `on_end` is called once: with None when the worker closed its end, with the fault when it sent garbage.
        """
        sock.setblocking(False)
        self._socket = sock
        self._on_payload = on_payload
        self._on_end = on_end
        self._decoder = FrameDecoder()
        self._unsent: deque[memoryview] = deque()
        self._open = True
        self._reading = False
        self._loop = asyncio.get_running_loop()
        try:
            self._watch()
        except BaseException:
            sock.close()
            raise

    def send(self, data: bytes, rest: bytes | memoryview = b"") -> bool:
        """Sends `data`, and `rest` behind it without a copy, as soon as the worker takes them.

        Returns False if the worker has surely got none of it, and is lost.
        """
        if not self._open:
            return False
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.sendmsg((data, rest)) if rest else self._socket.send(data)
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
                self._loop.add_writer(self._socket, self._writable)
            except OSError as error:
                self._end(f"cannot be written to: {error}")
                return sent > 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
        if rest:
            self._unsent.append(memoryview(rest)[max(0, sent - len(data)) :])
        return True

    def pause_reading(self) -> None:
        """Leaves what the worker sends in the socket; once that is full, the worker waits."""
        if self._reading:
            self._reading = False
            try:
                self._loop.remove_reader(self._socket)
            except OSError:
                pass  # the kernel does not know it any more

    def resume_reading(self) -> None:
        """Takes what the worker sends again."""
        if self._open and not self._reading:
            try:
                self._watch()
            except OSError as error:
                self._end(f"cannot be read from: {error}")

    def detach(self) -> socket.socket | None:
        """Leaves the socket to another process; None while a part of a frame is on its way in either direction."""
        if self._unsent or self._decoder.is_amid_frame:
            return None
        self.pause_reading()
        return self._socket

    def drain(self) -> None:
        """Takes what a worker that is dead had still sent."""
        while self._open and self._readable():
            pass

    def finish(self) -> None:
        """Sends nothing more, and reads until the other end closes."""
        if self._open:
            self._forget_writer()
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # broken already, which the reader sees

    def close(self) -> None:
        """Closes the socket; the worker, if it lives, sees the end of it and exits."""
        if self._open:
            self._open = False
            self.pause_reading()
            self._forget_writer()
            try:
                self._socket.close()
            except OSError:
                pass  # the kernel complains, and closes it

    def _watch(self) -> None:
        self._loop.add_reader(self._socket, self._readable)
        self._reading = True

    def _readable(self) -> bool:
        """Reads once; False where there was nothing to read."""
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._end(None)
            return True
        try:
            for payload in self._decoder.feed(data):
                self._on_payload(payload)
        except FrameError as error:
            self._end(str(error))
        return True

    def _writable(self) -> None:
        part = self._unsent[0]
        try:
            sent = self._socket.send(part)
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
            self._loop.remove_writer(self._socket)
        except OSError:
            pass  # the kernel does not know it any more

    def _end(self, fault: str | None) -> None:
        self.close()
        self._on_end(fault)
