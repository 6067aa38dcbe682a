"""Hands workers and connections, each with the bytes that were read of it, to another process (unix(7), SCM_RIGHTS)."""

import array
import asyncio
import os
import resource
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from common.log_once import LogOnce
from pools.process.ends import WorkerEnds, close_all

_log = structlog.stdlib.get_logger("poolshift.fronts")

_MAX_FDS: Final = 3
"""The descriptors of a worker; a connection has fewer."""
_MAX_AT_ONCE: Final = 64
_DESCRIPTORS_FOR_ONE: Final = 64
GO_ON_S: Final = 0.02
"""The rest of connections, on their way out or in, if the system refuses this process a file or memory."""
_MAX_INLINE_BYTES: Final = 16 * 1024
"""More bytes that were read of a connection go along as a file in memory, which takes another descriptor."""
_CONNECTION: Final = b"c"
_CONNECTION_WITH_FILE: Final = b"f"
_WORKER: Final = b"w"
_NUMBER_BYTES: Final = 8
_WAITS_FOR: Final = {_CONNECTION: 1, _CONNECTION_WITH_FILE: 2}
"""The descriptors without which a message is left waiting, by its first byte. A worker is refused in that case."""


class Handover:
    """One end of a pair of sockets (SOCK_SEQPACKET) over which two processes hand each other descriptors."""

    def __init__(
        self,
        sock: socket.socket,
        on_connection: Callable[[socket.socket, bytes], None],
        on_worker: Callable[[int, WorkerEnds | None], None] | None = None,
    ) -> None:
        """Takes over `sock`. Calls `on_connection` with each connection, and the bytes that were read of it.

        Calls `on_worker` with each worker: the number of its lease and its pipes. Without descriptors left for them in
        this process, there are none.
        """
        sock.setblocking(False)
        self._sock = sock
        self._most_at_once = most_at_once()
        self._on_connection = on_connection
        self._on_worker = on_worker
        self._loop = asyncio.get_running_loop()
        self._log_once = LogOnce("cannot take what is handed over")
        self._waiting: deque[tuple[socket.socket, bytes]] = deque()
        self._loop.add_reader(sock.fileno(), self._take)

    def __repr__(self) -> str:
        return f"<Handover waiting={len(self._waiting)}>"

    def offer(self, connection: socket.socket, read: bytes) -> bool:
        """Hands a connection over and closes it here. False, with the connection as it was, if that has to wait."""
        if self._waiting:
            return False
        try:
            _send(self._sock, connection, read)
        except OSError:  # no room, no descriptors, no memory, or nobody is there any more
            return False
        connection.close()
        return True

    def give(self, connection: socket.socket, read: bytes) -> None:
        """Hands a connection over and closes it here, as soon as the other side has room."""
        if not self.offer(connection, read):
            if not self._waiting:
                self._loop.add_writer(self._sock.fileno(), self._send_waiting)
            self._waiting.append((connection, read))

    def lend(self, lease: int, ends: WorkerEnds) -> bool:
        """Hands a worker's pipes over, which stay open here. False if that is impossible now."""
        message = _WORKER + lease.to_bytes(_NUMBER_BYTES, "little")
        try:
            socket.send_fds(self._sock, [message], [ends.requests, ends.replies, ends.output])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Ends it. Connections that wait are closed."""
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        while self._waiting:
            self._waiting.popleft()[0].close()

    def _send_waiting(self) -> None:
        while self._waiting:
            connection, read = self._waiting[0]
            try:
                _send(self._sock, connection, read)
            except BlockingIOError:
                return
            except OSError:
                self._loop.remove_writer(self._sock.fileno())
                self._loop.call_later(GO_ON_S, self._send_on)
                return
            self._waiting.popleft()
            connection.close()
        self._loop.remove_writer(self._sock.fileno())

    def _send_on(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_writer(self._sock.fileno(), self._send_waiting)

    def _take(self) -> None:
        for _ in range(self._most_at_once):
            try:
                if not _can_open(_WAITS_FOR.get(self._sock.recv(1, socket.MSG_PEEK), 0)):
                    # The kernel would drop what the receiver has no room for: the connection, or what was read of it.
                    self._rest()
                    return
                message, fds = _receive(self._sock)
            except BlockingIOError:
                return
            except ConnectionError:
                message, fds = b"", []
            except OSError as error:
                self._log_once.warn(str(error))
                self._rest()
                return
            if not message:  # the other side has gone, and its stream tells of that
                self._loop.remove_reader(self._sock.fileno())
                return
            self._hand_on(message, fds)

    def _rest(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_later(GO_ON_S, self._take_on)

    def _take_on(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._take)

    def _hand_on(self, message: bytes, fds: list[int]) -> None:
        """Hands on what has come; there are no descriptors if this process had none left for them."""
        if message[:1] == _WORKER:
            lease = int.from_bytes(message[1:], "little")
            assert self._on_worker is not None
            if len(fds) == _MAX_FDS:
                self._on_worker(lease, WorkerEnds(*fds))
            else:
                close_all(fds)
                self._on_worker(lease, None)
        elif len(fds) == _WAITS_FOR[message[:1]]:
            read = _read_all(fds[1]) if len(fds) > 1 else message[1:]
            self._on_connection(socket.socket(fileno=fds[0]), read)
        else:  # a thread has opened a file since there was room
            close_all(fds)
            _log.warning("a connection is lost: no descriptor was left for it")


def most_at_once() -> int:
    """The connections that a process takes in one turn of its event loop: fewer if it may have few descriptors.

    A connection is open, and may have another one closed for it, some turns after it was taken
    (`app.execute.connections`).
    """
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, min(_MAX_AT_ONCE, descriptors // _DESCRIPTORS_FOR_ONE))


def _can_open(count: int) -> bool:
    """Tells if this process can open so many files."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.dup(2))
    except OSError:
        return False
    finally:
        for fd in opened:
            os.close(fd)
    return True


def _send(sock: socket.socket, connection: socket.socket, read: bytes) -> None:
    fds = [connection.fileno()]
    try:
        if len(read) > _MAX_INLINE_BYTES:
            fds.append(_in_memory(read))
            socket.send_fds(sock, [_CONNECTION_WITH_FILE], fds)
        else:
            socket.send_fds(sock, [_CONNECTION, read], fds)
    finally:
        close_all(fds[1:])


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize * _MAX_FDS
    message, ancillary, _, _ = sock.recvmsg(1 + _MAX_INLINE_BYTES, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, fds.tolist()


def _in_memory(data: bytes) -> int:
    fd = os.memfd_create("poolshift-read")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
    except OSError:
        os.close(fd)
        raise
    return fd


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()
