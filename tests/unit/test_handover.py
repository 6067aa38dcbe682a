"""Connections between two processes, as long as a receiver or a sender has no descriptors left."""

import asyncio
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from app.fronts.handover import Handover
from pools.process.ends import WorkerEnds, close_all

READ = b"GET /healthz HTTP/1.1\r\n"
LARGE = b"x" * 100_000


class Pair:
    """Both ends of a handover, in one process, and what the second one has received."""

    def __init__(self) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connections: asyncio.Queue[tuple[socket.socket, bytes]] = asyncio.Queue()
        self.workers: asyncio.Queue[tuple[int, WorkerEnds | None]] = asyncio.Queue()
        self.sender = Handover(here, lambda connection, _: connection.close())
        self.receiver = Handover(
            there,
            lambda connection, read: self.connections.put_nowait((connection, read)),
            lambda lease, ends: self.workers.put_nowait((lease, ends)),
        )


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    both = Pair()
    try:
        yield both
    finally:
        both.sender.close()
        both.receiver.close()


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leaves so many descriptors to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # no forgotten file of another test gives its descriptor back meanwhile
    lowest = [os.dup(2) for _ in range(count + 1)]
    close_all(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def turns() -> None:
    """Lets whatever is ready happen."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("read", "left"), [(READ, 0), (LARGE, 0), (LARGE, 1)], ids=["small-0", "large-0", "large-1"])
def test_a_connection_waits_for_descriptors(read: bytes, left: int) -> None:
    """One that finds too few is neither reset nor loses what was read of it."""

    async def run() -> None:
        client, server = socket.socketpair()
        async with pair() as both:
            assert both.sender.offer(server, read)
            with descriptors_left(left):
                await turns()
                assert both.connections.empty()
            async with asyncio.timeout(10):
                connection, received = await both.connections.get()
            with client, connection:
                assert received == read
                connection.sendall(b"answer")
                assert client.recv(6) == b"answer"

    asyncio.run(run())


def test_bytes_that_were_read_wait_for_a_descriptor() -> None:
    """A sender that has none for them keeps the connection."""

    async def run() -> None:
        client, server = socket.socketpair()
        async with pair() as both:
            with descriptors_left(0):
                both.sender.give(server, LARGE)
                await turns()
                assert server.fileno() >= 0
            async with asyncio.timeout(10):
                connection, received = await both.connections.get()
            with client, connection:
                assert received == LARGE

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000])
def test_one_descriptor_does_for_a_connection_of_little(size: int) -> None:
    """However much was read of it, all of that goes along; up to 16 KiB of it take no descriptor."""
    client, server = socket.socketpair()
    bytes_read = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def run() -> None:
        async with pair() as both:
            assert both.sender.offer(server, bytes_read)
            with descriptors_left(1 if size <= 16 * 1024 else 2):
                async with asyncio.timeout(10):
                    connection, received = await both.connections.get()
            with client, connection:
                assert received == bytes_read

    asyncio.run(run())


def test_a_worker_without_descriptors_is_told_of_at_once() -> None:
    """The worker goes back to the service, which has others who wait for it."""

    async def run() -> None:
        requests, replies = os.pipe()
        async with pair() as both:
            try:
                assert both.sender.lend(7, WorkerEnds(requests, replies, 2))
                with descriptors_left(2):
                    async with asyncio.timeout(10):
                        assert await both.workers.get() == (7, None)
                assert both.sender.lend(8, WorkerEnds(requests, replies, 2))
                async with asyncio.timeout(10):
                    lease, ends = await both.workers.get()
                assert lease == 8
                assert ends is not None
                ends.close()
            finally:
                close_all([requests, replies])

    asyncio.run(run())
