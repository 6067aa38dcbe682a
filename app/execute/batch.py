"""`POST /programs/{id}/batch`: many calls of one program, each with an outcome of its own.

The items of a batch go through the execute lane one by one, and each has its own execution id, version and answer. They
wait here and not in a pool's queue: in each pool, the items of all batches together have half of the places.
"""

import asyncio
import http
from functools import partial
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from app.access.auth import Principal
from app.execute.call_head import IDEMPOTENCY_KEY, CallHead
from app.execute.endpoint import ExecuteLane
from app.execute.envelopes import MAX_ITEMS, BatchEnvelope, Envelope, decode_batch, misfit
from app.execute.exchange import AsgiExchange, ClientGone, Exchange
from app.execute.idempotency import Once, kept
from app.execute.response import Response, json_lines, problem_lines
from app.execute.text_check import check_text
from app.execute.version_headers import sunset_lines
from app.problems import Problem, problem_of
from app.services import Services
from pools.protocol import Pool
from poolshift.worker.definitions import Definition
from poolshift.worker.framing import MALFORMED
from routing.catalog.idempotency import Outcome
from routing.catalog.programs import CataloguedProgram
from routing.versions import Version

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""Limit of the results of one batch together. An item beyond it fails."""
_CLIENT_CLOSED_REQUEST: Final = 499
"""The status that a request has in the metrics if its client has left; nobody gets it."""


class BatchEndpoint:
    """The endpoint, an ASGI application."""

    def __init__(self, services: Services, lane: ExecuteLane, max_body_bytes: int) -> None:
        self._services = services
        self._lane = lane
        self._max_body_bytes = max_body_bytes
        self._once = Once(services.keys, services.programs, services.jobs)
        self._places: dict[tuple[Version, int], tuple[Pool, asyncio.Semaphore]] = {}
        """The places that the items of all batches have in each pool, by the number of calls that it runs at once. A
        batch waits for one place at a time, so the batches take turns."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = AsgiExchange(scope, receive, send, self._services.tasks)
        try:
            response = await self._serve(exchange, scope["path_params"]["program_id"])
        except ClientGone:
            response = _CLIENT_CLOSED_REQUEST, b"", b""
        await exchange.answer(response)

    def _places_of_pools(self, definition: Definition) -> dict[Version, asyncio.Semaphore]:
        """Half of each pool; a pool that has taken another's place begins with all of its places free."""
        places: dict[Version, asyncio.Semaphore] = {}
        for version, pool in self._services.pools.items():
            key = version, pool.capacity_of(definition)
            if key not in self._places or self._places[key][0] is not pool:
                self._places[key] = pool, asyncio.Semaphore(max(1, key[1] // 2))
            places[version] = self._places[key][1]
        return places

    async def _serve(self, exchange: AsgiExchange, program_id: str) -> Response:
        principal = self._lane.authorise(exchange)
        check_text("path.program_id", program_id)
        body = await exchange.body(self._max_body_bytes)
        self._lane.authorise_again(exchange)
        envelope = _read(body)
        if IDEMPOTENCY_KEY not in exchange.headers:
            with exchange:
                return await self._run(exchange, principal, program_id, envelope)

        async def carry_out() -> Outcome:
            try:
                response = await self._run(exchange, principal, program_id, envelope)
            except Exception as error:
                return _refusal(problem_of(error))
            return kept(response), True

        program = program_id, envelope.session_id
        return await self._once.answer(exchange, "batch", body, program, carry_out)

    async def _run(
        self, exchange: AsgiExchange, principal: Principal, program_id: str, envelope: BatchEnvelope
    ) -> Response:
        forced = self._lane.forced_version(exchange, principal)
        if envelope.session_id is not None:
            await self._services.sessions.admit_call(envelope.session_id, principal.caller, program_id)
        programs = self._services.programs
        session_id = envelope.session_id
        program = programs.resolve(program_id, session_id) or await programs.seek(program_id, session_id)
        self._services.deadlines.seconds(envelope.timeout_s, program.definition, is_job=False)
        batch = _Batch(self._lane, exchange, program, envelope, forced)
        answers = await batch.run(self._places_of_pools(program.definition))
        body = b'{"items":[' + b",".join(answers) + b"]}"
        lines = json_lines(len(body)) + sunset_lines(self._services.migration.sunset, batch.served_by)
        return http.HTTPStatus.OK, lines, body


class _Batch:
    """One batch that runs."""

    def __init__(
        self,
        lane: ExecuteLane,
        exchange: AsgiExchange,
        program: CataloguedProgram,
        envelope: BatchEnvelope,
        forced: Version | None,
    ) -> None:
        self._lane = lane
        self._exchange = exchange
        self._head = CallHead(exchange.path, list(exchange.headers.items()))
        self._program = program
        self._envelope = envelope
        self._forced = forced
        self._bytes_left = MAX_ANSWER_BYTES
        self.served_by: set[Version] = set()
        """The versions that have answered items."""

    async def run(self, places: dict[Version, asyncio.Semaphore]) -> list[bytes]:
        """Runs all items, each as soon as its pool has a place for it, and returns their answers in order.

        If this is cancelled, the items that run are cancelled and the others never begin.
        """
        items = []
        own_places = asyncio.Semaphore(self._program.max_concurrency or MAX_ITEMS)
        async with asyncio.TaskGroup() as group:
            for inputs in self._envelope.inputs:
                await own_places.acquire()
                item = self._new_item()
                place = places[self._lane.route_item(item, self._forced, self._envelope.session_id)]
                await place.acquire()
                task = group.create_task(self._run_item(item, inputs))
                task.add_done_callback(partial(_leave, own_places, place))  # also called if the task never began
                items.append(task)
        return [item.result() for item in items]

    async def _run_item(self, item: Exchange, inputs: msgspec.Raw) -> bytes:
        envelope = Envelope(inputs, self._envelope.session_id, self._envelope.timeout_s)
        answer = await self._lane.run_item(item, self._program, envelope, self._fits)
        if item.route is not None:
            self.served_by.add(item.route.decision.version)
        return answer

    def _new_item(self) -> Exchange:
        item = Exchange(self._head, self._exchange.address, self._exchange.scheme)
        item.principal = self._exchange.principal
        return item

    def _fits(self, size: int) -> bool:
        if size > self._bytes_left:
            return False
        self._bytes_left -= size
        return True


def _leave(own_places: asyncio.Semaphore, place: asyncio.Semaphore, _: asyncio.Task[bytes]) -> None:
    own_places.release()
    place.release()


def _refusal(problem: Problem) -> Outcome:
    """The answer to a batch none of whose items has begun, unless the service itself failed."""
    body = problem.body()
    return kept((problem.kind.status, problem_lines(problem, len(body)), body)), not problem.retry_safe


def _read(body: bytes) -> BatchEnvelope:
    try:
        envelope = decode_batch(body)
    except MALFORMED as error:
        raise misfit(error) from None
    for index, inputs in enumerate(envelope.inputs):
        if memoryview(inputs)[0] != ord("{"):
            raise Problem("invalid_request", f"body.inputs.{index}: the inputs of an item are an object")
    return envelope
