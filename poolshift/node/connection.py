"""One connection of the service's, as the agent has it."""

import asyncio
import socket
from collections import deque
from contextlib import suppress

from poolshift.worker.framing import MAX_FRAME_BYTES, FrameError, frame

MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""A service that leaves so much unread is as good as gone."""


class Connection:
    """Frames over a socket. Nothing beyond the last frame is read, so that the socket can be handed on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self.is_broken = False

    def __repr__(self) -> str:
        return f"<Connection fd={self.socket.fileno()} unsent={self._unsent_bytes}>"

    async def receive(self, limit: int = MAX_FRAME_BYTES) -> bytes:
        """The next payload; empty at the end.

        Raises:
            FrameError: a frame claims more than `limit` bytes.
            OSError: the connection is broken.
        """
        head = await self._exactly(4)
        length = int.from_bytes(head, "big")
        if length > limit:
            raise FrameError(f"a frame claims {length} bytes; the limit is {limit}")
        return await self._exactly(length) if head else b""

    async def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = await self._loop.sock_recv(self.socket, min(count - len(data), 1 << 20))
            if not part:
                return b""
            data += part
        return bytes(data)

    def send(self, payload: bytes) -> None:
        """Sends a frame behind those that wait; a connection with too many of them is broken."""
        if self.is_broken:
            return
        data = frame(payload)
        self._unsent_bytes += len(data)
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            self.is_broken = True
            self.hang_up()
            return
        self._unsent.append(data)
        if self._sending is None:
            self._sending = self._loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._unsent:
                data = self._unsent.popleft()
                await self._loop.sock_sendall(self.socket, data)
                self._unsent_bytes -= len(data)
        except OSError:
            self.is_broken = True  # the reader sees the same end
        finally:
            self._sending = None

    async def flush(self) -> None:
        """Waits until all is sent, or cannot be."""
        if self._sending is not None:
            await asyncio.wait([self._sending])

    def hang_up(self) -> None:
        """Ends the connection for its reader here as for the other end."""
        with suppress(OSError):  # it has ended already
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection."""
        if self._sending is not None:
            self._sending.cancel()
        self.socket.close()

    def hand_on(self) -> int:
        """Gives up the socket, for a process that blocks on it. Returns its descriptor."""
        self.socket.setblocking(True)
        return self.socket.detach()
