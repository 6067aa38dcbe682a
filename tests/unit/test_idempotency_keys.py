"""Idempotency keys on a real store, with two replicas that share it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import update

from routing.catalog.idempotency import IdempotencyKeys, KeptAnswer, KeyedCall, Outcome
from routing.catalog.quotas import Quotas
from routing.errors import IdempotencyConflict, QuotaExceeded, StoreUnavailable
from store.clock import moment
from store.database import Database
from store.key_store import SqlKeyStore
from store.tables import idempotency_keys

pytestmark = pytest.mark.anyio

ANSWER = KeptAnswer(200, [(b"x-name", b"\xe9")], b'{"nul":"\x00","wrong":"\xff"}')


def call(key: str = "k", owner: str | None = None, fingerprint: str = "f", execution_id: str = "e") -> KeyedCall:
    return KeyedCall.new(owner, key, fingerprint, execution_id)


@pytest.fixture
async def replicas(database: Database) -> AsyncIterator[tuple[IdempotencyKeys, IdempotencyKeys]]:
    one, other = (IdempotencyKeys(SqlKeyStore(database), ttl_s=3600) for _ in range(2))
    for replica in (one, other):
        await replica.open(others_run=True)
    yield one, other
    for replica in (one, other):
        await replica.aclose()


async def silence(database: Database) -> None:
    """Makes every call one that its replica has not renewed for so long that it counts as lost."""
    async with database.transaction() as connection:
        await connection.execute(update(idempotency_keys).values(alive_until=moment(connection)))


async def ends(answer: KeptAnswer, *, is_final: bool = True) -> Outcome:
    return answer, is_final


async def ends_after(release: asyncio.Event) -> Outcome:
    await release.wait()
    return ANSWER, True


async def test_one_of_many_claims_wins(replicas: tuple[IdempotencyKeys, IdempotencyKeys]) -> None:
    """On both replicas at once; the others are told that it runs, and get its answer when it has ended."""

    async def claim(number: int) -> KeyedCall | None:
        mine = call(execution_id=str(number))
        return mine if await replicas[number % 2].claim(mine) is None else None

    claims = await asyncio.gather(*(claim(number) for number in range(20)), return_exceptions=True)
    won = [one for one in claims if isinstance(one, KeyedCall)]
    assert len(won) == 1
    assert sum(isinstance(one, IdempotencyConflict) for one in claims) == 19
    await replicas[int(won[0].execution_id) % 2].run(won[0], ends(ANSWER))
    for replica in replicas:
        first = await replica.claim(call())
        assert first is not None
        assert first.answer is not None
        assert (first.answer.status, first.answer.body) == (ANSWER.status, ANSWER.body)
        assert [tuple(header) for header in first.answer.headers] == ANSWER.headers
    with pytest.raises(IdempotencyConflict):
        await replicas[1].claim(call(fingerprint="g"))
    assert await replicas[1].claim(call(owner="another")) is None


async def test_what_did_not_start_frees_its_key(replicas: tuple[IdempotencyKeys, IdempotencyKeys]) -> None:
    one, other = replicas
    mine = call()
    assert await one.claim(mine) is None
    assert await one.run(mine, ends(ANSWER, is_final=False)) == ANSWER
    assert await other.claim(call(fingerprint="g")) is None


async def test_a_lost_call_is_taken_over_once(database: Database) -> None:
    """Nobody has renewed it: one of two takes it over, and the first cannot write its late answer over that."""
    store, lost = SqlKeyStore(database), call(execution_id="lost")
    assert await store.claim(lost, 3600)
    await silence(database)
    keys = IdempotencyKeys(store, ttl_s=3600)
    found = await keys.claim(call(execution_id="second"))
    assert found is not None
    assert found.answer is None
    outcomes = await asyncio.gather(
        *(keys.take_over(found, call(execution_id=name)) for name in ("second", "third")), return_exceptions=True
    )
    assert [type(one) for one in outcomes if one is not None] == [IdempotencyConflict]
    await store.keep(lost, ANSWER)
    with pytest.raises(IdempotencyConflict):
        await keys.claim(call())


async def test_what_runs_is_renewed(database: Database) -> None:
    """A call may run for longer than it counts as alive."""
    store = SqlKeyStore(database)
    keys = IdempotencyKeys(store, ttl_s=3600)
    mine = call()
    assert await keys.claim(mine) is None
    release = asyncio.Event()

    run = keys.run(mine, ends_after(release))
    await silence(database)
    await keys.keep()
    found = await store.find(call(), 3600)
    assert found is not None
    assert found.is_alive
    release.set()
    assert await run == ANSWER
    await keys.aclose()


async def test_what_runs_here_is_not_lost(
    replicas: tuple[IdempotencyKeys, IdempotencyKeys], database: Database
) -> None:
    """Even if it was not renewed for so long that others take it for lost: it is not taken over where it runs."""
    one, other = replicas
    mine = call()
    assert await one.claim(mine) is None
    release = asyncio.Event()

    run = one.run(mine, ends_after(release))
    await silence(database)
    for again in (call(execution_id="again"), call(fingerprint="g")):
        with pytest.raises(IdempotencyConflict) as told:
            await one.claim(again)
        assert not told.value.is_lost
    lost = await other.claim(call())
    assert lost is not None
    assert lost.answer is None
    release.set()
    assert await run == ANSWER


async def test_an_answer_that_cannot_be_written_yet(
    replicas: tuple[IdempotencyKeys, IdempotencyKeys], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told of it, neither its own caller nor another, until the store has it: a crash would take it back."""
    one, other = replicas
    mine = call()
    assert await one.claim(mine) is None
    with monkeypatch.context() as patched:
        for kind in ("transaction", "reading"):
            patched.setattr(Database, kind, _no_transaction)
        assert await one.run(mine, ends(ANSWER)) is None
        for replica in replicas:
            with pytest.raises(StoreUnavailable):
                await replica.claim(call())
        with pytest.raises(StoreUnavailable):
            await one.keep()
    with pytest.raises(IdempotencyConflict):
        await other.claim(call())
    for replica in replicas:  # the first one writes it, since it asks
        first = await replica.claim(call())
        assert first is not None
        assert first.answer is not None
        assert first.answer.body == ANSWER.body


@asynccontextmanager
async def _no_transaction(_: Database) -> AsyncIterator[None]:
    raise StoreUnavailable("it does not answer")
    yield


async def test_a_key_that_is_not_stored_uses_no_quota(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that another call has, nor one that the store does not take."""
    keys = IdempotencyKeys(SqlKeyStore(database), ttl_s=3600, quotas=Quotas(keys_per_owner=2))
    claims = await asyncio.gather(*(keys.claim(call()) for _ in range(2)), return_exceptions=True)
    assert [type(one) for one in claims if one is not None] == [IdempotencyConflict]
    with monkeypatch.context() as patched:
        patched.setattr(SqlKeyStore, "claim", _fails)
        with pytest.raises(StoreUnavailable):
            await keys.claim(call("l"))
    assert await keys.claim(call("l")) is None
    with pytest.raises(QuotaExceeded):
        await keys.claim(call("m"))


async def _fails(*_: object) -> bool:
    raise StoreUnavailable("it does not answer")


class _SlowStore(SqlKeyStore):
    """Tells of each end of a call that it is to write, and waits for leave."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked = asyncio.Semaphore(0)
        self.leave = asyncio.Semaphore(0)

    async def release(self, call: KeyedCall) -> None:
        self.asked.release()
        await self.leave.acquire()
        await super().release(call)

    async def keep(self, call: KeyedCall, answer: KeptAnswer) -> None:
        self.asked.release()
        await self.leave.acquire()
        await super().keep(call, answer)


async def test_an_end_is_written_once_for_all_who_wait(database: Database) -> None:
    """A call's own writing and that of every second may meet; a key that it frees counts as free once."""
    store = _SlowStore(database)
    keys = IdempotencyKeys(store, ttl_s=3600, quotas=Quotas(keys_per_owner=1))
    assert await keys.claim(call()) is None
    run = keys.run(call(), ends(ANSWER, is_final=False))
    await store.asked.acquire()
    again = asyncio.create_task(keys.keep())
    second = asyncio.create_task(keys.claim(call(execution_id="second")))
    store.leave.release()
    assert await run == ANSWER
    await again
    assert await second is None
    assert store.asked.locked()  # nobody has asked a second time
    with pytest.raises(QuotaExceeded):
        await keys.claim(call("another"))
    await keys.aclose()


async def test_whoever_has_the_key_waits_for_the_write(database: Database) -> None:
    """As long as it takes and no longer, and another key does not wait. Whoever leaves takes it from nobody."""
    store = _SlowStore(database)
    keys = IdempotencyKeys(store, ttl_s=3600)
    assert await keys.claim(call()) is None
    run = keys.run(call(), ends(ANSWER))
    await store.asked.acquire()
    waiting = [asyncio.create_task(keys.claim(call())) for _ in range(6)]
    assert await keys.claim(call("another")) is None
    waiting.pop().cancel()
    assert not run.done()
    assert not any(one.done() for one in waiting)
    store.leave.release()
    assert await run == ANSWER
    for one in waiting:
        found = await one
        assert found is not None
        assert found.answer is not None
        assert found.answer.body == ANSWER.body
    await keys.aclose()


async def test_a_restart_gives_up_what_ran(database: Database) -> None:
    """If no replica shares the store, nothing can run when the service starts. Old keys are forgotten."""
    keys = IdempotencyKeys(SqlKeyStore(database), ttl_s=3600)
    assert await keys.claim(call()) is None
    await keys.open(others_run=False)
    found = await keys.claim(call())
    assert found is not None
    assert found.answer is None
    short = IdempotencyKeys(SqlKeyStore(database), ttl_s=0.001)
    await asyncio.sleep(0.002)
    assert await short.claim(call(fingerprint="g")) is None
    await asyncio.sleep(0.002)
    await short.sweep()
    assert await SqlKeyStore(database).usage() == {}
