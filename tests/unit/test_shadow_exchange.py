"""Evidence of shadow calls over restarts and replicas, on a real store: what adds up, and what must not."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from analysis.guardrails import Config
from pools.calls import Program
from routing.catalog.programs import CataloguedProgram, StoredProgram
from routing.rollout.live_judge import LiveJudge
from routing.shadow.evidence import ShadowEvidence
from routing.shadow.exchange import EvidenceExchange
from store.database import Database
from store.shadow_store import SqlEvidenceStore
from tests.support.fake_pools import echo_program

pytestmark = pytest.mark.anyio


def program(key: str = "k", instructions: str | None = None, revision: int = 1) -> CataloguedProgram:
    definition = replace(echo_program(idempotent=True).definition, instructions=instructions)
    stored = StoredProgram(Program(key, "echo", definition, revision), None, datetime.now(UTC))
    return CataloguedProgram(stored, definition, 100)


class Replica:
    """One run of a service, with the program that its catalogue has and the pools that it runs."""

    def __init__(self, database: Database, *, is_shared: bool, catalogued: CataloguedProgram | None = None) -> None:
        self.catalogued = catalogued if catalogued is not None else program()
        self.generation: str | None = "pools"
        self.judge = LiveJudge(Config())
        self.evidence = ShadowEvidence(self.judge, lambda name: self.catalogued if name == "echo" else None)
        self.exchange = EvidenceExchange(
            self.evidence, SqlEvidenceStore(database), self._generation_of_now, is_shared=is_shared
        )

    async def _generation_of_now(self) -> str | None:
        return self.generation

    def compare(self, times: int, *, odd: Any = None, of: CataloguedProgram | None = None) -> None:
        """Counts calls: all the same, or with this odd one in the field `text`; and a pair of scores for each."""
        called = of if of is not None else self.catalogued
        for _ in range(times):
            assert self.evidence.of(called) is not None
            self.evidence.compared("echo", {"text": odd is None}, {} if odd is None else {"text": odd})
            self.evidence.scores.pair("echo", 1.0, 0.0 if odd else 1.0)

    @property
    def seen(self) -> tuple[int, int, bool, int]:
        """Compared and differing calls, the verdict, and the pairs of scores; zeros if nothing is known."""
        try:
            report = self.evidence.reports().of("echo")
        except KeyError:
            return (0, 0, False, 0)
        assert report.quality is not None
        return report.compared, report.differing, any(row.differs for row in report.fields), report.quality.pairs


Start = Callable[..., Replica]


@pytest.fixture
def start(database: Database) -> Start:
    return lambda **more: Replica(database, **more)


@pytest.mark.parametrize("is_shared", [False, True])
async def test_evidence_outlives_a_restart(start: Start, *, is_shared: bool) -> None:
    """A field that was found is still found, the judge is fed with it, and later calls are added."""
    before = start(is_shared=is_shared)
    await before.exchange.exchange()
    before.compare(20, odd="v2")
    before.compare(5)
    await before.exchange.exchange()
    after = start(is_shared=is_shared)
    await after.exchange.exchange()
    assert after.seen == before.seen == (25, 20, True, 25)
    after.evidence.feed()
    (evidence,) = [one for one in after.judge.judge.evidence() if one.guardrail == "shadow"]
    assert evidence.is_alarm
    after.compare(3)
    await after.exchange.exchange()
    again = start(is_shared=is_shared)
    await again.exchange.exchange()
    assert again.seen == (28, 20, True, 28)


async def test_replicas_add_up_what_each_has_seen_once(start: Start) -> None:
    one, other = start(is_shared=True), start(is_shared=True)
    one.compare(7, odd="v2")
    other.compare(7, odd="v2")
    for _ in range(2):
        await one.exchange.exchange()
        await other.exchange.exchange()
    assert one.seen == other.seen == (14, 14, True, 14)
    assert one.evidence.own().figures["echo"].compared == 7


async def test_evidence_about_other_pools_or_definitions_is_not_added(start: Start) -> None:
    """Neither for another generation, nor for a program that has been changed, at once."""
    old, same = start(is_shared=True), start(is_shared=True)
    old.compare(20, odd="v2")
    await old.exchange.exchange()
    await same.exchange.exchange()
    assert same.seen == (20, 20, True, 20)
    same.catalogued = program(instructions="otherwise", revision=2)
    same.compare(1)
    assert same.seen == (1, 0, False, 1)
    await same.exchange.exchange()
    assert same.seen == (1, 0, False, 1)
    moved = start(is_shared=True)
    await moved.exchange.exchange()
    moved.generation = "other pools"
    await moved.exchange.exchange()
    assert moved.seen == (0, 0, False, 0)


async def test_pools_that_cannot_be_told_keep_what_is_known(start: Start) -> None:
    """An interpreter that hangs for a moment is no other pool."""
    one = start(is_shared=False)
    one.compare(3)
    await one.exchange.exchange()
    one.generation = None
    await one.exchange.exchange()
    assert one.seen == (3, 0, False, 3)


async def test_programs_of_sessions_wait_for_a_call(start: Start) -> None:
    """A restart knows no session's definition before its first call; until then the evidence is kept."""
    before = start(is_shared=False)
    before.compare(4, of=program("of a session", "its own"))
    await before.exchange.exchange()
    after = start(is_shared=False)
    await after.exchange.exchange()
    assert after.seen == (0, 0, False, 0)
    await after.exchange.exchange()
    after.compare(1, of=program("of a session", "its own"))
    await after.exchange.exchange()
    assert after.seen == (5, 0, False, 5)


async def test_a_restart_of_the_evidence_is_kept(start: Start) -> None:
    """Other code begins again, also after a restart of the service."""
    before = start(is_shared=False)
    before.compare(20, odd="v2")
    await before.exchange.exchange()
    before.evidence.restart()
    await before.exchange.exchange()
    after = start(is_shared=False)
    await after.exchange.exchange()
    assert after.seen == before.seen == (0, 0, False, 0)


async def test_a_restart_of_the_evidence_ends_that_of_earlier_runs(start: Start) -> None:
    """A service alone has its own evidence of before; it does not come back with the next exchange."""
    before = start(is_shared=False)
    before.compare(20, odd="v2")
    await before.exchange.exchange()
    after = start(is_shared=False)
    await after.exchange.exchange()
    assert after.seen == (20, 20, True, 20)
    after.evidence.restart()
    for _ in range(2):
        await after.exchange.exchange()
        assert after.seen == (0, 0, False, 0)
    after.compare(1)
    await after.exchange.exchange()
    assert after.seen == (1, 0, False, 1)
