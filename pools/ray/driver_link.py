"""The service's end of the driver (`pools.ray.driver`): starts it, hands on what it tells, and ends it."""

import asyncio
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from common import own_process
from pools.ray.driver_messages import Connected, Event, Fault, Plan
from poolshift.worker.framing import MALFORMED

CONNECT_TIMEOUT_S: Final = 30.0
"""The longest time that the driver may take to join the cluster."""
END_TIMEOUT_S: Final = 3.0
"""The longest time that the driver may take to leave the cluster; it is killed then."""
MAX_LINE_BYTES: Final = 64 * 1024

_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


async def events_of_driver(plan: Plan, inherited: dict[str, str]) -> AsyncGenerator[Event, None]:
    """Runs a driver and yields what it tells, until it ends. The driver ends when the iteration does.

    Raises:
        OSError: it could not be started.
    """
    ours, process = await _start(plan, inherited)
    try:
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        try:
            async for event in _events(reader, plan.address):
                yield event
        finally:
            writer.close()
    finally:
        ours.close()
        await own_process.end(process, END_TIMEOUT_S)


async def _start(plan: Plan, inherited: dict[str, str]) -> tuple[socket.socket, Process]:
    """Starts the process, with one end of a socket pair; returns the other."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await own_process.start(
                "pools.ray.driver",
                msgspec.json.encode(plan).decode(),
                str(theirs.fileno()),
                variables=inherited,
                pass_fds=[theirs.fileno()],
                stdout=DEVNULL,
                stderr=DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
    return ours, process


async def _events(reader: asyncio.StreamReader, address: str) -> AsyncGenerator[Event, None]:
    limit: float | None = CONNECT_TIMEOUT_S
    while True:
        try:
            async with asyncio.timeout(limit):
                line = await reader.readline()
        except TimeoutError:
            where = f"no answer from the Ray cluster at RAY_ADDRESS={address} within {CONNECT_TIMEOUT_S:g} s"
            yield Fault(f"{where}: the node of this machine may be of another cluster, or still be starting")
            return
        if not line:
            return
        try:
            event = _event_decoder.decode(line)
        except MALFORMED:
            return
        if isinstance(event, Connected):
            limit = None
        yield event
