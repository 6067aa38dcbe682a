"""Idempotency keys: a call that comes with a key is carried out once, and its answer is kept for the next that asks.

The store's unique row decides which of several equal calls runs, on whatever replica they arrive. While the call runs,
its replica renews the row. A row that nobody has renewed belongs to a replica that died: nobody knows how far its call
came, so it runs again only if its program is idempotent.

An answer is told once the store has it, so that no crash can take it back: neither the first caller nor any other who
has the key hears of it before.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import structlog

from common.shared_run import SharedRun
from common.tasks import TaskOwner
from routing.catalog.quotas import DEFAULT_QUOTAS, Quotas, check_keys
from routing.errors import IdempotencyConflict, StoreUnavailable

RENEW_EVERY_S: Final = 15.0
ALIVE_S: Final = 60.0
"""Time after which a call that nobody has renewed counts as lost."""
CLOSE_TIMEOUT_S: Final = 10.0
"""Longest wait for the last answers at the end of the service, in seconds; the calls end with the pools."""
_COUNT_EVERY_S: Final = 60.0
_log = structlog.stdlib.get_logger("poolshift.keys")


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer to a call, as it went out."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A call with its key. `fingerprint` tells if another call with the same key asks for the same."""

    owner: str
    key: str
    fingerprint: str
    execution_id: str
    answer: KeptAnswer | None = None
    alive_until: datetime | None = None
    """The time after which the call counts as lost, by the store's clock; None before the store has the call."""
    is_alive: bool = True
    """False if that time is over."""

    @staticmethod
    def new(owner: str | None, key: str, fingerprint: str, execution_id: str) -> "KeyedCall":
        """Makes one that begins now. Calls without an owner share the owner "", which no key file allows."""
        return KeyedCall(owner or "", key, fingerprint, execution_id)


class KeyTaken(Exception):
    """Another call with the same key was faster."""


class KeyStore(Protocol):
    """Keeps keyed calls. Every method raises StoreUnavailable if the store does not answer.

    Only the store's clock counts, since replicas share it.
    """

    async def find(self, call: KeyedCall, ttl_s: float) -> KeyedCall | None:
        """Reads the call that has this owner and key, unless it is older than `ttl_s` seconds."""
        ...

    async def claim(self, call: KeyedCall, ttl_s: float) -> bool:
        """Keeps a new call, and tells if it did; not if another has its key that is not older than `ttl_s` seconds."""
        ...

    async def take_over(self, lost: KeyedCall, call: KeyedCall) -> bool:
        """Puts `call` in the place of `lost`, unless that has changed since; tells if it did."""
        ...

    async def renew(self, calls: Sequence[KeyedCall]) -> None:
        """Says that these calls still run: none of them counts as lost for `ALIVE_S` seconds."""
        ...

    async def keep(self, call: KeyedCall, answer: KeptAnswer) -> None:
        """Keeps the answer to a call."""
        ...

    async def release(self, call: KeyedCall) -> None:
        """Forgets a call that surely did not start."""
        ...

    async def drop(self, call: KeyedCall) -> bool:
        """Forgets a call with its answer, unless another has its key by now; tells if it did."""
        ...

    async def lose_all(self) -> None:
        """Notes that none of the calls without an answer runs any more."""
        ...

    async def forget(self, ttl_s: float) -> None:
        """Forgets calls that are older than `ttl_s` seconds."""
        ...

    async def usage(self) -> Mapping[str, tuple[int, int]]:
        """The number of calls and the bytes of their answers, by owner."""
        ...


Outcome = tuple[KeptAnswer, bool]
"""The answer to a call, and True if it is the call's last word. False means that the call surely did not start."""


class _End:
    """The end of a call that the store has not taken yet."""

    def __init__(
        self, call: KeyedCall, answer: KeptAnswer | None, write: "Callable[[_End], Coroutine[Any, Any, None]]"
    ) -> None:
        """An answer of None releases the key."""
        self.call = call
        self.answer = answer
        self.flush: Final = SharedRun(lambda: write(self))
        """Writes it, once for all who wait for that."""


class IdempotencyKeys:
    """Carries calls with keys out once."""

    def __init__(self, store: KeyStore, *, ttl_s: float, quotas: Quotas = DEFAULT_QUOTAS) -> None:
        """Keeps each key for `ttl_s` seconds from its first call on."""
        self._store = store
        self._quotas = quotas
        self.ttl_s = ttl_s
        self._running: dict[tuple[str, str], KeyedCall] = {}
        self._unwritten: dict[tuple[str, str], _End] = {}
        """The ends of calls that the store has not taken yet. Nobody is told of them."""
        self._used_keys: Counter[str] = Counter()
        self._used_bytes: Counter[str] = Counter()
        self._next_renewal = 0.0
        self._next_count = 0.0
        self._runs: set[asyncio.Task[KeptAnswer | None]] = set()
        self._tasks = TaskOwner("keys")

    async def open(self, *, others_run: bool) -> None:
        """Gives up the calls of the last run of the service. If other replicas run, the renewals tell."""
        if not others_run:
            await self._store.lose_all()
        await self._count()

    async def aclose(self) -> None:
        """Writes the last answers. Call this after the pools are closed."""
        if self._runs:
            await asyncio.wait(self._runs, timeout=CLOSE_TIMEOUT_S)
        try:
            await self._flush()
        except StoreUnavailable as error:
            _log.error("answers to calls with keys are lost", count=len(self._unwritten), reason=str(error))
        await self._tasks.aclose()

    # --- one call

    async def find(self, call: KeyedCall) -> KeyedCall | None:
        """Finds the first call with this key, as the store has it; None if there is none.

        Raises:
            IdempotencyConflict: the first call asked for something else, or runs.
            StoreUnavailable: also if the first call has ended and its end cannot be stored.
        """
        while (end := self._unwritten.get((call.owner, call.key))) is not None:
            await end.flush()
        if (running := self._running.get((call.owner, call.key))) is not None:  # even if no renewal reaches the store
            return _checked(call, running, runs_here=True)
        found = await self._store.find(call, self.ttl_s)
        return None if found is None else _checked(call, found)

    async def claim(self, call: KeyedCall) -> KeyedCall | None:
        """Makes `call` the first with its key; or returns the one that is, with its answer or lost.

        Raises:
            IdempotencyConflict: as `find`.
            QuotaExceeded: the owner has too many keys, or too large answers.
            StoreUnavailable.
        """
        if (found := await self.find(call)) is not None:
            return found
        self.take_place(call)
        is_first = False
        try:
            is_first = await self._store.claim(call, self.ttl_s)
        finally:
            if not is_first:
                self.give_place_back(call)
        if is_first:
            return None
        if (found := await self.find(call)) is not None:
            return found
        raise IdempotencyConflict.running()  # the first one has ended this moment without having started

    async def free(self, call: KeyedCall) -> None:
        """Frees the key of a job that ended without having started. Raises StoreUnavailable."""
        if await self._store.drop(call):
            self.give_place_back(call)

    def take_place(self, call: KeyedCall) -> None:
        """Counts a key that is about to be stored.

        Raises:
            QuotaExceeded: its owner has too many keys, or too large answers.
        """
        check_keys(self._quotas, self._used_keys[call.owner], self._used_bytes[call.owner])
        self._used_keys[call.owner] += 1

    def give_place_back(self, call: KeyedCall) -> None:
        """Takes back `take_place`, for a key that is not stored."""
        self._used_keys[call.owner] -= 1

    async def take_over(self, lost: KeyedCall, call: KeyedCall) -> None:
        """Makes `call` the first with its key, in the place of a lost call of an idempotent program.

        Raises:
            IdempotencyConflict: another was faster.
        """
        if not await self._store.take_over(lost, call):
            raise IdempotencyConflict.running()

    def run(self, call: KeyedCall, work: Coroutine[Any, Any, Outcome]) -> asyncio.Task[KeptAnswer | None]:
        """Runs a claimed call to its end, whatever becomes of its client, and keeps its answer.

        The task returns None if the store cannot take the end of the call yet: the answer is nothing to tell then.
        """
        self._running[call.owner, call.key] = call
        run = self._tasks.start(self._run(call, work))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return run

    async def _run(self, call: KeyedCall, work: Coroutine[Any, Any, Outcome]) -> KeptAnswer | None:
        try:
            answer, is_final = await work
        except BaseException:
            self._running.pop((call.owner, call.key), None)
            raise
        end = self._unwritten[call.owner, call.key] = _End(call, answer if is_final else None, self._write)
        del self._running[call.owner, call.key]
        self._used_bytes[call.owner] += len(answer.body) if is_final else 0
        try:
            await end.flush()
        except StoreUnavailable as error:
            _log.warning("an answer to a call with a key is kept in memory", reason=str(error))
            return None
        return answer

    async def _write(self, end: _End) -> None:
        place = end.call.owner, end.call.key
        if self._unwritten.get(place) is not end:
            return  # the run before this one has written it
        if end.answer is None:
            await self._store.release(end.call)
            self.give_place_back(end.call)
        else:
            await self._store.keep(end.call, end.answer)
        del self._unwritten[place]

    # --- all of them

    async def keep(self) -> None:
        """Renews what runs, and writes what is not written yet. Call this every second. Raises StoreUnavailable."""
        now = time.monotonic()
        if now >= self._next_renewal and self._running:
            await self._store.renew(list(self._running.values()))
            self._next_renewal = now + RENEW_EVERY_S
        await self._flush()

    async def sweep(self) -> None:
        """Forgets old keys. Raises StoreUnavailable."""
        if time.monotonic() >= self._next_count:
            await self._store.forget(self.ttl_s)
            await self._count()

    async def _count(self) -> None:
        usage = await self._store.usage()
        self._used_keys = Counter({owner: keys for owner, (keys, _) in usage.items()})
        self._used_bytes = Counter({owner: size for owner, (_, size) in usage.items()})
        self._next_count = time.monotonic() + min(_COUNT_EVERY_S, self.ttl_s / 4)

    async def _flush(self) -> None:
        for end in list(self._unwritten.values()):
            await end.flush()


def _checked(call: KeyedCall, first: KeyedCall, *, runs_here: bool = False) -> KeyedCall:
    """Returns the first call with the key of `call`. Raises IdempotencyConflict if it is another call, or runs."""
    if first.fingerprint != call.fingerprint:
        raise IdempotencyConflict.other_request()
    if runs_here or (first.answer is None and first.is_alive):
        raise IdempotencyConflict.running()
    return first
