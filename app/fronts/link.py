"""The service's end of the stream to one front: makes calls of its frames, and sends the answers."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from app.execute.call_head import CallHead
from app.execute.exchange import Address, BegunCall, ConnectionExchange, Endpoint
from app.execute.response import Rest
from app.execute.uvicorn_adapter import ServerState, running_tasks
from app.fronts.frames import (
    ALIVE,
    ANSWER,
    ASKED,
    CALL,
    ENDING,
    FAILED,
    GONE,
    KILL,
    LENGTH_BYTES,
    MAY_BE_GRANTED,
    OPENING,
    PAID,
    RAN,
    REFUSED,
    RETURNED,
    SPANS,
    STATE,
    STATE_ASKED,
    STAYS,
    WANTED,
    FrameStream,
)
from app.fronts.handover import Handover
from app.fronts.messages import Failure, Killed, Loan, Ran, State
from app.fronts.named import failure_named
from pools.process.exits import ExitCause
from poolshift.worker.definitions import Definition

if TYPE_CHECKING:
    from app.fronts.grants import Grants
    from app.fronts.loans import Loans

MAX_DEFINITIONS: Final = 20_000
"""A front that has been told so many is replaced: those of programs that were changed or deleted are never dropped."""
SILENT_S: Final = 3.0
"""A front that has said nothing for this long, in seconds, gets no workers."""

Head = tuple[str, list[tuple[bytes, bytes]], Address | None]
"""The path, the headers, and the service's own address."""

_decode_head: Final = msgspec.msgpack.Decoder(Head).decode
_decode_ran: Final = msgspec.msgpack.Decoder(list[Ran]).decode
_decode_failure: Final = msgspec.msgpack.Decoder(Failure).decode
_decode_loan: Final = msgspec.msgpack.Decoder(Loan).decode
_decode_killed: Final = msgspec.msgpack.Decoder(Killed).decode
_decode_spans: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_state: Final = msgspec.msgpack.Decoder(State).decode


class _Client:
    """A connection of the front, from its first call on."""

    def __init__(self, link: "FrontLink", number: int, head: bytes) -> None:
        self.link = link
        self.number = number
        self.take_head(head)
        self.exchange: ConnectionExchange | None = None
        """The call that is being answered."""
        self.may_be_granted = False
        self.epoch = 0
        """The epoch in which the call began: what was right then may be wrong by its answer."""

    def take_head(self, head: bytes) -> None:
        """Takes the head of the calls from now on."""
        path, lines, self._address = _decode_head(head)
        self._head = CallHead(path, lines)

    def new_exchange(self, server: ServerState, tasks: "set[asyncio.Task[None]]") -> ConnectionExchange:
        self.exchange = ConnectionExchange(self._head, self._address, server, tasks, self.answer)
        return self.exchange

    def answer(self, data: bytes, rest: Rest) -> None:
        exchange, self.exchange = self.exchange, None
        flags, granted = 0, b""
        if exchange is not None:
            flags = STAYS if exchange.keep_alive else 0
            if self.may_be_granted:
                granted = self.link.grants.grant(self.link, exchange, self.epoch)
        self.link.send(ANSWER, flags, self.number, granted, b"".join((data, *rest)) if rest else data)


class FrontLink(FrameStream):
    """Calls of a front's connections, for as long as the front lives."""

    def __init__(
        self,
        number: int,
        endpoint: Endpoint,
        server: ServerState,
        handover: Handover,
        loans: "Loans",
        grants: "Grants",
        on_news: Callable[[], None],
    ) -> None:
        """Takes the front's number, counted from 0.

        Calls `on_news` each time that `heard_at`, `connections` or `is_lost` may have changed.
        """
        super().__init__()
        self.number = number
        self.handover = handover
        self.loans = loans
        self.grants = grants
        self.workers = 0
        """The workers that the front has on loan."""
        self.recalled = 0
        """The number of them that it is to give back, whichever is idle first."""
        self.ran_at = 0.0
        """The time, by the loop's clock, at which the front last told of calls that it has run."""
        self.definitions: dict[int, Definition] = {}
        """The definitions that the front knows, by their numbers."""
        self._questions = 0
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._endpoint = endpoint
        self._server = server
        self._tasks = running_tasks(server)
        self._on_news = on_news
        self._clients: dict[int, _Client] = {}
        self.connections = 0
        """The connections that the front has been given and has not told to be gone."""
        self.heard_at: float | None = None
        """The time, by the loop's clock, at which the front last said that it serves."""
        self.is_lost = False
        self.is_draining = False
        """Set once the service is about to end: the answer to each call that begins then closes its connection."""

    def ask(self) -> None:
        """Asks the front if it serves."""
        self.send(ASKED, 0, 0)

    @property
    def is_worn(self) -> bool:
        """Tells if the front is to be replaced, since it keeps every definition that it was ever told."""
        return len(self.definitions) >= MAX_DEFINITIONS

    @property
    def is_silent(self) -> bool:
        """Tells if the front has not said for some time that it serves."""
        return self.heard_at is not None and self.heard_at < self.loop.time() - SILENT_S

    async def tell(self, timeout_s: float) -> None:
        """Returns when the front has told all that it had to tell, or is gone, or `timeout_s` are over."""
        self._questions += 1
        number = self._questions
        answer = self._answers[number] = self.loop.create_future()
        self.send(STATE_ASKED, 0, number)
        try:
            await asyncio.wait([answer], timeout=timeout_s)
        finally:
            del self._answers[number]

    def shutdown(self) -> None:
        """Has the front close its connections, once what has begun to arrive on them is answered."""
        for client in self._clients.values():
            if client.exchange is not None:
                client.exchange.keep_alive = False
        self.send(ENDING, 0, 0)

    def connection_lost(self, error: Exception | None) -> None:
        """The front has gone, and its clients with it."""
        super().connection_lost(error)
        self.is_lost = True
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            if client.exchange is not None:
                client.exchange.client_gone()
        for answer in self._answers.values():
            _resolve(answer)
        self.loans.left(self)
        self._on_news()

    def frame_received(self, kind: int, flags: int, connection: int, first: bytes, second: bytes) -> None:
        """A front's frame."""
        if kind == CALL:
            self._begin(self._client(connection, first), flags, second, None)
        elif kind == RAN:
            self.ran_at = self.loop.time()
            self.grants.ran(_decode_ran(first))
        elif kind == SPANS:
            self.grants.take_spans(_decode_spans(first), connection)
        elif kind == FAILED:
            self._go_on(self._client(connection, first), flags, second)
        elif kind == OPENING:
            client = self._client(connection, first)
            if not self._endpoint.admits(client.new_exchange(self._server, self._tasks)):
                self.send(REFUSED, 0, connection)
            client.exchange = None
        elif kind == GONE:
            self.connections -= 1
            gone = self._clients.pop(connection, None)
            if gone is not None and gone.exchange is not None:
                gone.exchange.client_gone()
        elif kind == ALIVE:
            self.heard_at = self.loop.time()
            self._on_news()
        else:
            self._take_of_workers(kind, flags, first)

    def _take_of_workers(self, kind: int, flags: int, told: bytes) -> None:
        if kind == WANTED:
            self.loans.is_wanted()
        elif kind == RETURNED:
            self.recalled -= flags == PAID
            self.loans.returned(self, _decode_loan(told))
        elif kind == KILL:
            killed = _decode_killed(told)
            self.loans.killed(killed.lease, ExitCause(killed.cause), killed.reason, killed.fault)
        elif kind == STATE:
            state = _decode_state(told)
            self.loans.runs(self, state.running)
            answer = self._answers.get(state.number)
            if answer is not None:
                _resolve(answer)

    def _begin(self, client: _Client, flags: int, body: bytes, begun: BegunCall | None) -> None:
        exchange = client.new_exchange(self._server, self._tasks)
        exchange.keep_alive = flags & STAYS != 0 and not (self.is_draining and begun is None)
        exchange.begun = begun
        client.may_be_granted = flags & MAY_BE_GRANTED != 0
        client.epoch = self.grants.epoch
        exchange.begin(body, self._endpoint, self.loop, at_once=True)

    def _go_on(self, client: _Client, flags: int, told: bytes) -> None:
        """Ends a call that the front has begun."""
        body_at = LENGTH_BYTES + int.from_bytes(told[:LENGTH_BYTES], "little")
        failure = _decode_failure(told[LENGTH_BYTES:body_at])
        error = failure_named(failure)
        self.grants.failed(failure)
        now = time.perf_counter()
        dispatched_at = 0.0 if failure.dispatched_ago_s < 0 else now - failure.dispatched_ago_s
        begun = BegunCall(
            error,
            failure.execution_id,
            began=now - failure.began_ago_s,
            deadline=self.loop.time() + failure.left_s,
            queued_s=failure.queued_s,
            load_s=failure.load_s,
            dispatched_at=dispatched_at,
            worker_pid=failure.worker_pid,
            is_cold=failure.is_cold,
            program=self.grants.program_of(failure),
            trace=self.grants.trace_of(failure),
        )
        self._begin(client, flags, told[body_at:], begun)

    def _client(self, number: int, head: bytes) -> _Client:
        client = self._clients.get(number)
        if client is None:
            client = self._clients[number] = _Client(self, number, head)
        elif head:
            client.take_head(head)
        return client


def _resolve(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)
