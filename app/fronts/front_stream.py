"""The front's end of the stream to the service, and its connections."""

import asyncio
import socket
import time
from collections.abc import Callable
from email.utils import formatdate

import msgspec
import uvicorn

from app.execute.connections import Connections, Limits
from app.execute.uvicorn_adapter import ServerState
from app.fronts.connections import AsksService, FrontConnection, Grants
from app.fronts.direct import DirectCalls
from app.fronts.frames import (
    ALIVE,
    ANSWER,
    ASKED,
    DEATH,
    DEFINITION,
    ENDING,
    GATE_CLOSED,
    GONE,
    LENT,
    RECALLED,
    REFUSED,
    STATE,
    STATE_ASKED,
    STAYS,
    WITHDRAWN,
    FrameStream,
)
from app.fronts.gate import Gate
from app.fronts.messages import Death, FrontPlan, Grant, Loan, State
from common.tasks import TaskOwner
from pools.process.ends import WorkerEnds
from pools.process.exits import Exit, ExitCause
from routing.catalog.definitions import decode_definition

CLOCK_S = 1.0
"""Time between two settings of the Date header (RFC 9110, 6.6.1)."""

_pack = msgspec.msgpack.Encoder().encode
_decode_grant = msgspec.msgpack.Decoder(Grant).decode
_decode_loan = msgspec.msgpack.Decoder(Loan).decode
_decode_death = msgspec.msgpack.Decoder(Death).decode


class FrontStream(FrameStream):
    """Hands calls to the service, and answers to the connections that they came from."""

    def __init__(self, limits: Limits, plan: FrontPlan, gate: Gate) -> None:
        super().__init__()
        self._gate = gate
        self._direct = DirectCalls(
            self, gate, plan.number, queue_limit=plan.queue_limit, checkout_timeout_s=plan.checkout_timeout_s
        )
        self._grants: Grants = {}
        self._loans: dict[int, Loan] = {}
        """The loans whose descriptors have not come yet."""
        self._descriptors: dict[int, WorkerEnds] = {}
        """By lease, the descriptors whose loan has not been told yet."""
        self._set_clock()
        self._connections = Connections(AsksService(), limits)
        self._config = uvicorn.Config("", log_config=None, workers=1)
        self._server = ServerState()
        self._numbers = 0
        self._open: dict[int, FrontConnection] = {}
        self._is_ending = False
        self._tasks = TaskOwner("front")
        self._give: Callable[[socket.socket, bytes], None] | None = None
        self._recalled: set[int] = set()
        """Leases that were recalled before their descriptors came."""
        self._over: set[int] = set()
        """Leases whose workers died before their descriptors came."""
        self.ended = asyncio.Event()
        """Set once the service has gone, or after it has said that it ends, when no connection is left."""

    def __repr__(self) -> str:
        return f"<FrontStream open={len(self._open)}>"

    def move_by(self, give: Callable[[socket.socket, bytes], None]) -> None:
        """Sets the way to the service for connections, each with what was read of it."""
        self._give = give

    def take(self, sock: socket.socket, _: bytes = b"") -> None:
        """Takes over a connection."""
        self._tasks.start(self._open_connection(sock))

    def take_worker(self, lease: int, ends: WorkerEnds | None) -> None:
        """Takes the descriptors of a worker on loan, and the worker once its loan is told, too."""
        if ends is None:
            self._loans.pop(lease, None)
            self._direct.lost(lease)
        elif lease in self._over:
            self._over.discard(lease)
            ends.close()
        else:
            self._descriptors[lease] = ends
            self._take_if_whole(lease)

    def _take_if_whole(self, lease: int) -> None:
        if lease in self._loans and lease in self._descriptors:
            self._direct.lent(self._loans.pop(lease), self._descriptors.pop(lease))
            if lease in self._recalled:
                self._recalled.discard(lease)
                self._direct.recalled(lease)

    def _take_end(self, lease: int, end: Exit) -> None:
        """Ends a worker that is dead, perhaps before its descriptors are here."""
        if self._loans.pop(lease, None) is not None:
            self._over.add(lease)
        self._direct.died(lease, end)

    def _take_recall(self, lease: int) -> None:
        if lease in self._loans:
            self._recalled.add(lease)
        else:
            self._direct.recalled(lease)

    def _set_clock(self) -> None:
        self.server_lines = b"date: %s\r\n" % formatdate(time.time(), usegmt=True).encode()
        self.loop.call_later(CLOCK_S, self._set_clock)

    async def aclose(self) -> None:
        """Ends what is left."""
        await self._tasks.aclose()

    # --- the stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The service is there."""
        super().connection_made(transport)
        self.send(ALIVE, 0, 0)

    def connection_lost(self, error: Exception | None) -> None:
        """The service has gone."""
        super().connection_lost(error)
        self.ended.set()

    def frame_received(self, kind: int, flags: int, connection: int, first: bytes, second: bytes) -> None:
        """A frame of the service's."""
        if kind == ANSWER:
            answered = self._open.get(connection)
            if answered is not None:
                if first:
                    answered.grant(self._direct.granted(_decode_grant(first)))
                answered.answered(second, stays=flags == STAYS)
        elif kind == STATE_ASKED:
            self._direct.tell()
            self.send(STATE, 0, 0, _pack(State(connection, self._direct.running())))
        elif kind == ASKED:
            self.send(ALIVE, 0, 0)
        elif kind == REFUSED:
            refused = self._open.get(connection)
            if refused is not None:
                refused.refused()
        elif kind == ENDING:
            self._end()
        else:
            self._take_of_workers(kind, connection, first)

    def _take_of_workers(self, kind: int, number: int, told: bytes) -> None:
        if kind == LENT:
            loan = _decode_loan(told)
            self._loans[loan.lease] = loan
            self._take_if_whole(loan.lease)
        elif kind == RECALLED:
            self._take_recall(number)
        elif kind == DEATH:
            death = _decode_death(told)
            end = Exit(ExitCause(death.cause), death.description, death.cpu_s, death.is_ours)
            self._take_end(death.lease, end)
        elif kind == DEFINITION:
            self._direct.know(number, decode_definition(told))
        elif kind == GATE_CLOSED:
            self._direct.withdraw_waiting()
        elif kind == WITHDRAWN:
            self._direct.withdraw_running()

    def _end(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            for one in list(self._open.values()):
                one.shutdown()
            self._end_if_unused()

    # --- the connections

    async def _open_connection(self, sock: socket.socket) -> None:
        self._numbers += 1
        made = FrontConnection(
            self._connections,
            self._config,
            self._server,
            self,
            self._direct,
            self._grants,
            self._numbers,
            self._move,
            self._lost,
        )
        self._open[made.number] = made
        try:
            await self.loop.connect_accepted_socket(lambda: made, sock)  # type: ignore[type-var]
        except OSError:  # the client has gone
            sock.close()
            self._lost(made.number)
            return
        if self._is_ending:
            made.shutdown()

    def _move(self, connection: FrontConnection, read: bytes) -> None:
        sock = connection.detach()
        if sock is None or self._give is None:
            connection.abort()
        else:
            self._give(sock, read)

    def _lost(self, number: int) -> None:
        if self._open.pop(number, None) is not None:
            self.send(GONE, 0, number)
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._is_ending and not self._open:
            self._direct.tell()
            self.ended.set()
