"""Notifications: from the outbox to receivers that behave, and to all kinds that do not."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from routing.rollout.ramp import Ramp, RampState
from routing.rollout.ramp_clock import StepTimes
from routing.rollout.ramp_json import to_json
from routing.webhooks import delivery, notifier
from routing.webhooks.notifier import LAST_RETRY_S, Channel, WebhookNotifier, retry_in_s
from routing.webhooks.outbox import Notification
from routing.webhooks.ramp_event import ramp_event
from store.database import Database
from store.outbox import SqlOutbox
from store.ramp_store import SqlRampStore
from store.tables import outbox
from tests.support.receiver import (
    Behaviour,
    Delivery,
    Receiver,
    closes,
    drips,
    floods,
    hangs,
    running_receiver,
    says,
    talks_nonsense,
)
from tests.support.waiting import wait_until_async
from tests.unit.test_ramp import plan, started

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
Outcomes = Counter[str]


@pytest.fixture(autouse=True)
def fast_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can sit out."""
    monkeypatch.setattr(delivery, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(notifier, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(notifier, "FIRST_RETRY_S", 0.01)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@asynccontextmanager
async def notifying(database: Database, url: str, secret: str | None = SECRET) -> AsyncIterator[Outcomes]:
    """A notifier at work; yields what it counts."""
    outcomes: Outcomes = Counter()
    channel = Channel(event=ramp_event, url=lambda _: url, secret=secret)
    told = WebhookNotifier(SqlOutbox(database), channel, lambda outcome: outcomes.update([outcome]))
    task = asyncio.create_task(told.run())
    try:
        yield outcomes
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def move(database: Database, *ramps: Ramp) -> None:
    """Moves the ramp, from its beginning on."""
    store = SqlRampStore(database, notifies=True)
    for ramp in ramps:
        found = await store.find()
        await store.append(ramp, StepTimes(), after=0 if found is None else found.stored.revision)


async def until(condition: Callable[[], bool], what: str) -> None:
    async def holds() -> bool:
        return condition()

    await wait_until_async(holds, what)


def is_signed(delivery: Delivery) -> bool:
    """By the specification, without its library: HMAC-SHA256 over id, timestamp and body."""
    signed = f"{delivery.headers['webhook-id']}.{delivery.headers['webhook-timestamp']}.".encode() + delivery.body
    signature = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    return delivery.headers["webhook-signature"] == f"v1,{signature}"


async def test_a_change_of_state_is_a_signed_cloud_event(database: Database, receiver: Receiver) -> None:
    """Structured mode, with every attribute that CloudEvents asks for, and a signature that a receiver can check."""
    begun = started(name="«release» 7")
    rolled_back = replace(begun, state=RampState.ROLLED_BACK, by="judge", reason="engine: log e-value 9 reached 5")
    async with notifying(database, receiver.url) as outcomes:
        await move(database, begun, rolled_back)
        await until(lambda: outcomes["delivered"] == 2, "both are delivered")
    assert [is_signed(delivery) for delivery in receiver.deliveries] == [True, True]
    assert abs(time.time() - int(receiver.deliveries[0].headers["webhook-timestamp"])) < 60
    assert {one.headers["content-type"] for one in receiver.deliveries} == {"application/cloudevents+json"}
    events = [json.loads(delivery.body) for delivery in receiver.deliveries]
    ids = [event.pop("id") for event in events]
    assert ids == [delivery.headers["webhook-id"] for delivery in receiver.deliveries]
    assert len(set(ids)) == 2
    assert all(datetime.fromisoformat(event.pop("time")).tzinfo is not None for event in events)
    common = {
        "specversion": "1.0",
        "source": "poolshift",
        "subject": "«release» 7",
        "datacontenttype": "application/json",
    }
    told = {"plan": "«release» 7", "step": 1, "steps": 2, "step_percent": 1, "run": 1, "warning": None}
    assert events == [
        {
            **common,
            "type": "poolshift.rollout.ramping",
            "summary": "«release» 7 is ramping at step 1 of 2, by ops",
            "data": {**told, "state": "ramping", "by": "ops", "reason": None, "revision": 1},
        },
        {
            **common,
            "type": "poolshift.rollout.rolled_back",
            "summary": "«release» 7 is rolled back at step 1 of 2, by judge: engine: log e-value 9 reached 5",
            "data": {
                **told,
                "state": "rolled_back",
                "by": "judge",
                "reason": "engine: log e-value 9 reached 5",
                "revision": 2,
            },
        },
    ]


@pytest.mark.parametrize("state", RampState)
async def test_every_state_has_its_event(database: Database, receiver: Receiver, state: RampState) -> None:
    """With a plan and without one."""
    async with notifying(database, receiver.url) as outcomes:
        await move(database, Ramp(state=state), Ramp(state=state, plan=plan(), step=1))
        await until(lambda: outcomes["delivered"] == 2, "both are delivered")
    types = [json.loads(delivery.body)["type"] for delivery in receiver.deliveries]
    assert types == [f"poolshift.rollout.{state}"] * 2


async def test_a_change_of_the_reason_alone_is_no_news(database: Database, receiver: Receiver) -> None:
    """A wait for calls says each second how many are missing: nobody wants to be told each second."""
    begun = started()
    async with notifying(database, receiver.url) as outcomes:
        await move(database, begun, replace(begun, reason="x"), replace(begun, state=RampState.PAUSED))
        await until(lambda: outcomes["delivered"] == 2, "the start and the pause are delivered")
    assert [json.loads(delivery.body)["data"]["revision"] for delivery in receiver.deliveries] == [1, 3]


async def test_without_a_secret_nothing_is_signed(database: Database, receiver: Receiver) -> None:
    """But it has its id and its time all the same."""
    async with notifying(database, receiver.url, secret=None) as outcomes:
        await move(database, started())
        await until(lambda: outcomes["delivered"] == 1, "it is delivered")
    headers = receiver.deliveries[0].headers
    assert "webhook-signature" not in headers
    assert headers["webhook-id"]
    assert headers["webhook-timestamp"]


@pytest.mark.parametrize(
    "behaviour",
    [
        closes,
        hangs,
        drips,
        talks_nonsense,
        says(301, "location: /elsewhere"),
        says(307, "location: /elsewhere"),
        says(400),
        says(404),
        says(429, "retry-after: 86400"),
        says(500, body=b"x" * 100_000),
        says(503),
        says(101),
        floods(b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 1000 + b"\r\n"),
        floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        floods(b"HTTP/1.1 500 Oops\r\n\r\n", b"x" * 65536),
    ],
)
async def test_a_receiver_that_misbehaves_is_tried_again(database: Database, behaviour: Behaviour) -> None:
    """With the same id and the same body, so that one that has taken it after all can tell; and signed each time."""
    with running_receiver(behaviour, behaviour) as receiver:
        async with notifying(database, receiver.url) as outcomes:
            await move(database, started())
            await until(lambda: outcomes["delivered"] == 1, "it is delivered in the end")
        assert outcomes == {"failed": 2, "delivered": 1}
        assert len({(one.path, one.headers["webhook-id"], one.body) for one in receiver.deliveries}) == 1
        assert [is_signed(delivery) for delivery in receiver.deliveries] == [True] * 3
        assert {one.path for one in receiver.deliveries} == {"/hook"}  # where a redirect leads, nobody went


@pytest.mark.parametrize(
    "behaviour",
    [
        says(200, body=b"x" * 1_000_000),
        says(202),
        floods(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        floods(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n" * 1000),
    ],
)
async def test_the_body_of_an_answer_is_not_read(database: Database, behaviour: Behaviour) -> None:
    """An endless one, or one that is none, is an acceptance like any other: the status says so."""
    with running_receiver(then=behaviour) as receiver:
        async with notifying(database, receiver.url) as outcomes:
            await move(database, started())
            await until(lambda: outcomes.total() > 0, "the receiver has answered")
        assert outcomes == {"delivered": 1}


async def test_a_receiver_that_is_down_gets_it_when_it_is_up(database: Database) -> None:
    """Nothing that happened meanwhile is lost, and the oldest comes first."""
    with running_receiver() as gone:
        pass
    async with notifying(database, gone.url) as outcomes:
        await move(database, started(), replace(started(), state=RampState.PAUSED))
        await until(lambda: outcomes["failed"] >= 2, "both have been tried")
    async with database.transaction() as connection:
        await connection.execute(update(outbox).values(next_at=datetime.now(UTC)))
    with running_receiver() as receiver:
        async with notifying(database, receiver.url) as outcomes:
            await until(lambda: outcomes["delivered"] == 2, "both are delivered")
    states = [json.loads(delivery.body)["data"]["state"] for delivery in receiver.deliveries]
    assert states == ["ramping", "paused"]


async def test_a_receiver_that_is_gone_for_good_is_not_asked_again(database: Database) -> None:
    """410 is Standard Webhooks' word for that."""
    with running_receiver(then=says(410)) as receiver:
        async with notifying(database, receiver.url) as outcomes:
            await move(database, started(), replace(started(), state=RampState.PAUSED))
            await until(lambda: outcomes["given_up"] == 2, "both are given up")
        assert outcomes == {"given_up": 2}
        assert len(receiver.deliveries) == 2


async def test_what_is_a_day_old_is_given_up(database: Database, receiver: Receiver) -> None:
    """A slightly younger notification is delivered."""
    await move(database, started(), replace(started(), state=RampState.PAUSED))
    now = datetime.now(UTC)
    async with database.transaction() as connection:
        for key, age in ((1, timedelta(days=1)), (2, timedelta(hours=23))):
            await connection.execute(update(outbox).where(outbox.c.key == key).values(at=now - age))
    async with notifying(database, receiver.url) as outcomes:
        await until(lambda: outcomes.total() == 2, "both are gone")
    assert outcomes == {"given_up": 1, "delivered": 1}
    assert [json.loads(delivery.body)["data"]["state"] for delivery in receiver.deliveries] == ["paused"]


async def test_two_notifiers_deliver_each_once(database: Database, receiver: Receiver) -> None:
    """A claim is one replica's; that of a replica that has ended lapses."""
    await move(database, *(replace(started(), step=step % 2) for step in range(20)))
    async with notifying(database, receiver.url) as first, notifying(database, receiver.url) as second:
        await until(lambda: first["delivered"] + second["delivered"] == 20, "all are delivered")
    assert len({delivery.headers["webhook-id"] for delivery in receiver.deliveries}) == 20
    assert len(receiver.deliveries) == 20


async def test_a_claim_lapses(database: Database) -> None:
    """A replica that died with a notification in its hand leaves it to the others, and not for ever."""
    store = SqlOutbox(database)
    await move(database, started())
    assert (await store.claim(for_s=60)) is not None
    assert (await store.claim(for_s=60)) is None
    async with database.transaction() as connection:
        await connection.execute(update(outbox).values(next_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert (await store.claim(for_s=60)) is not None


async def test_a_late_failure_does_not_undo_a_delivery(database: Database) -> None:
    """A slow replica's word on a claim that has lapsed and that another has meanwhile delivered."""
    store = SqlOutbox(database)
    await move(database, started())
    claimed = await store.claim(for_s=60)
    assert claimed is not None
    await store.delivered(claimed.key)
    await store.failed(claimed.key, again_in_s=-1)
    assert (await store.claim(for_s=60)) is None


async def test_a_kind_from_a_newer_replica_is_left_alone(database: Database) -> None:
    """A rolling update: the newer replica delivers it."""
    now = datetime.now(UTC)
    async with database.transaction() as connection:
        values = {"kind": "brand new", "data": "?", "at": now, "attempts": 0, "next_at": now}
        await connection.execute(insert(outbox).values(values))
    assert (await SqlOutbox(database).claim(for_s=60)) is None
    async with database.transaction() as connection:
        assert (await connection.execute(select(outbox.c.next_at))).scalar_one() == now


async def test_names_and_reasons_are_bounded(database: Database, receiver: Receiver) -> None:
    """A body stays far under the 20 kB that Standard Webhooks recommends."""
    long = "🙂" * 100_000  # twelve bytes each, as JSON has them
    async with notifying(database, receiver.url) as outcomes:
        await move(database, replace(started(), by=long, reason=long))
        await until(lambda: outcomes["delivered"] == 1, "it is delivered")
    assert len(receiver.deliveries[0].body) < 20_000
    assert is_signed(receiver.deliveries[0])


@given(st.integers(0, 10**6))
def test_retries_come_ever_later_and_at_most_an_hour_apart(attempts: int) -> None:
    """So that a receiver that comes back is found, and one that does not is left in peace."""
    assert 0.008 <= retry_in_s(attempts) <= LAST_RETRY_S
    assert retry_in_s(attempts + 2) > retry_in_s(attempts) or retry_in_s(attempts) >= 0.8 * LAST_RETRY_S


@pytest.mark.parametrize(
    ("lacks_evidence", "summary"),
    [
        (True, "release 7 is promoted (Advanced without evidence), by ops: seen enough"),
        (False, "release 7 is promoted, by ops: seen enough"),
    ],
)
def test_a_promotion_without_evidence_has_its_warning(lacks_evidence: bool, summary: str) -> None:
    """In the sentence and as a member, so that no receiver takes it for a promotion by evidence."""
    ramp = Ramp(state=RampState.PROMOTED, plan=plan(), by="ops", reason="seen enough", lacks_evidence=lacks_evidence)
    event = ramp_event(Notification(1, {**to_json(ramp), "revision": 3}, datetime.now(UTC), 0, 0.0))
    data = event.get_data()
    assert isinstance(data, dict)
    assert event.get_attributes()["summary"].replace(plan().name, "release 7") == summary
    assert data["warning"] == ("Advanced without evidence" if lacks_evidence else None)
