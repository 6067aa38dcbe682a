"""The `Idempotency-Key` header: reads it, and answers a call once or with the answer that the first call had.

The header is that of the IETF's draft: a string in double quotes. The bare form that most clients send counts as well.
"""

import asyncio
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec

from app.execute.call_head import IDEMPOTENCY_KEY
from app.execute.exchange import Exchange
from app.execute.response import Response, headers_in, lines_of
from app.problems import Problem
from routing.catalog.idempotency import IdempotencyKeys, KeptAnswer, KeyedCall, KeyTaken, Outcome
from routing.catalog.jobs import Jobs, JobStatus
from routing.catalog.programs import Programs
from routing.errors import AnswerUnwritten, IdempotencyConflict, JobNotFound

MAX_KEY_LENGTH: Final = 255
_QUOTED: Final = re.compile(rb'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE: Final = re.compile(rb"[\x21\x23-\x7e][\x21-\x7e]*")
_REPLAYED: Final = b"idempotent-replayed: true\r\n"


class _Problem(msgspec.Struct):
    retry_safe: bool = False


_decode_problem: Final = msgspec.json.Decoder(_Problem).decode


class Once:
    """Answers calls with keys."""

    def __init__(self, keys: IdempotencyKeys, programs: Programs, jobs: Jobs) -> None:
        self._jobs = jobs
        self._keys = keys
        self._programs = programs

    async def answer(
        self,
        exchange: Exchange,
        operation: str,
        body: bytes,
        program: tuple[str, str | None],
        work: Callable[[], Coroutine[Any, Any, Outcome]],
    ) -> Response:
        """Runs `work` if this is the first call with its key, else answers what the first call was answered.

        `work` goes on if the client leaves: a client that has lost the answer asks again. `program` is the id of a
        program and the session in which that counts.

        Raises:
            IdempotencyConflict: the first call asks for something else, runs, or is lost.
            AnswerUnwritten: the call has ended, and its answer is told when the store has it.
        """
        keyed = _keyed_call(exchange, operation, body)
        first = await self._keys.claim(keyed)
        if first is not None:
            if first.answer is not None:
                return _answered_again(first.answer)
            await self._take_over(first, keyed, *program)
        exchange.keyed = keyed
        run = self._keys.run(keyed, work())
        with exchange:
            answer = await asyncio.shield(run)
        if answer is None:
            raise AnswerUnwritten
        return answer.status, lines_of(answer.headers), answer.body

    async def _take_over(self, lost: KeyedCall, keyed: KeyedCall, program_id: str, session_id: str | None) -> None:
        """Begins a call again whose replica died. Raises IdempotencyConflict unless its program is idempotent."""
        program = self._programs.resolve(program_id, session_id) or await self._programs.seek(program_id, session_id)
        if not program.definition.idempotent:
            raise IdempotencyConflict.lost()
        await self._keys.take_over(lost, keyed)

    async def start_job(
        self, exchange: Exchange, body: bytes, start: Callable[[], Awaitable[Response | None]]
    ) -> Response:
        """Starts a job if this is the first call with its key: the job and its key are stored at once.

        A job that ended without having started, as its problem says, is no first call.

        Raises:
            IdempotencyConflict: the first call asks for something else.
        """
        keyed = _keyed_call(exchange, "async", body)
        first = await self._keys.find(keyed)
        if first is not None and await self._never_started(first):
            await self._keys.free(first)
            first = None
        if first is None:
            self._keys.take_place(keyed)
            exchange.keyed = keyed
            started = None
            try:
                started = await start()
            except KeyTaken:
                first = await self._keys.find(keyed)
            finally:
                if started is None:
                    self._keys.give_place_back(keyed)
            if started is not None:
                return started
        if first is None or first.answer is None:
            raise IdempotencyConflict.running()
        return _answered_again(first.answer)

    async def _never_started(self, first: KeyedCall) -> bool:
        try:
            job = await self._jobs.show(first.execution_id)
        except JobNotFound:
            return False
        if job.status not in (JobStatus.FAILED, JobStatus.INTERRUPTED) or job.body is None:
            return False
        return _decode_problem(job.body).retry_safe


def _keyed_call(exchange: Exchange, operation: str, body: bytes) -> KeyedCall:
    """Makes the keyed call of a request. Raises Problem if its key makes no sense."""
    key = read_key(exchange.headers[IDEMPOTENCY_KEY])
    parts = (operation.encode(), exchange.path.encode(errors="surrogatepass"), body)
    fingerprint = hashlib.sha256(b"\0".join(parts)).hexdigest()
    return KeyedCall.new(exchange.owner, key, fingerprint, exchange.execution_id or secrets.token_hex(16))


def read_key(header: bytes) -> str:
    """Reads the key. Raises Problem, `invalid_request`, for anything but 1 to 255 printable ASCII characters."""
    header = header.strip()
    if (quoted := _QUOTED.fullmatch(header)) is not None:
        key = re.sub(rb"\\(.)", rb"\1", quoted[1])
    elif _BARE.fullmatch(header):
        key = header
    else:
        raise Problem(
            "invalid_request", "Idempotency-Key: a key is printable ASCII, in double quotes or without spaces"
        )
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise Problem("invalid_request", f"Idempotency-Key: a key has 1 to {MAX_KEY_LENGTH} characters")
    return key.decode("ascii")


def kept(response: Response) -> KeptAnswer:
    """Returns a response as the answer to keep."""
    status, lines, body = response
    return KeptAnswer(status, headers_in(lines), body)


def _answered_again(answer: KeptAnswer) -> Response:
    """Returns the first answer again, marked as such."""
    return answer.status, lines_of(answer.headers) + _REPLAYED, answer.body
