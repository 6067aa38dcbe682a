"""The trial of the V2 that runs: what speaks against it stays until it has earned trust again."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from analysis.guardrails import Config
from analysis.verdict import Say, Verdict
from pools.calls import Program
from poolshift.worker.definitions import Definition, Field, Signature
from routing.rollout import ramp as ramps
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Source
from routing.rollout.plan import Plan, PlanStep
from routing.rollout.ramp import Facts
from routing.rotation.live_trials import LiveTrials
from routing.rotation.trial import Calls, End, Outcome
from store.database import Database
from store.trial_store import SqlTrialStore
from tests.support.rollout import MemoryLog
from tests.unit.test_controller import MemoryStore, opened

pytestmark = pytest.mark.anyio
STEPS = (PlanStep(percent=1, hold_s=0, min_calls=1), PlanStep(percent=50, hold_s=0, min_calls=1))
PLAN = Plan(steps=STEPS, on_inconclusive="advance", max_wait_s=1)
MIN_CALLS = 1000
EVERYTHING = Change(10_000, Source.API, "ops")


class V2:
    """A V2 as one replica sees it: its calls, and the definitions that are its own."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.own: list[Program] = []
        self.what = "a"

    def serves(self, calls: int, faults: int = 0) -> None:
        self.calls = Calls(self.calls.served + calls, self.calls.faults + faults)

    async def identity(self) -> str:
        return self.what


class Replica(NamedTuple):
    """A replica's flag, ramp and trials."""

    flag: RolloutFlag
    ramp: RampController
    v2: V2
    trials: LiveTrials

    async def told(self) -> str:
        """Tells what speaks against V2; nothing if it is proven."""
        trial = await self.trials.of_v2()
        return "" if trial.is_proven else trial.told

    async def serves(self, calls: int) -> None:
        """Has V2 serve calls, since the trials know what was before."""
        await self.trials.flush()
        self.v2.serves(calls)


def trials(database: Database, flag: RolloutFlag, ramp: RampController, v2: V2) -> LiveTrials:
    """The trials of a service that has just started."""
    calls, own = lambda: v2.calls, lambda: v2.own
    return LiveTrials(v2.identity, calls, own, SqlTrialStore(database), ramp, flag, min_calls=MIN_CALLS)


@pytest.fixture
async def replica(database: Database) -> Replica:
    flag, v2 = await open_flag(MemoryLog(), None), V2()
    ramp = await opened(flag, LiveJudge(Config()), MemoryStore())
    await ramp.set_plan(PLAN, "ops")
    return Replica(flag, ramp, v2, trials(database, flag, ramp, v2))


async def aborted(replica: Replica) -> None:
    await replica.ramp.start("ops", None)
    await replica.ramp.abort("ops", "prices")


async def rolled_back(replica: Replica) -> None:
    await replica.ramp.start("ops", None)
    await replica.flag.rollback("ops", "prices")


async def rolled_back_by_the_judge(replica: Replica) -> None:
    await replica.ramp.start("ops", None)
    await look(replica, Say.ROLLBACK)


async def rolled_back_after_a_promotion(replica: Replica) -> None:
    await promoted_by_evidence(replica)
    await replica.flag.rollback("ops", "prices")


async def rolled_back_without_a_plan(replica: Replica) -> None:
    await replica.flag.change(EVERYTHING)
    await replica.flag.rollback("ops", "prices")


async def aborted_on_another_replica(replica: Replica) -> None:
    await replica.flag.change(EVERYTHING)
    await replica.flag.rollback("ops", "prices", source=Source.ABORT)


ENDS: list[tuple[Callable[[Replica], Awaitable[None]], str]] = [
    (aborted, "was aborted by ops"),
    (rolled_back, "was rolled back by ops"),
    (rolled_back_by_the_judge, "was rolled back by judge"),
    (rolled_back_after_a_promotion, "was rolled back by ops"),
    (rolled_back_without_a_plan, "was rolled back by ops"),
    (aborted_on_another_replica, "was aborted by ops"),
]


async def look(replica: Replica, say: Say, *, waited_s: float = 0.0) -> None:
    """Has the ramp move on a verdict, with the hold over and calls enough."""
    verdict = Verdict(say, "engine" if say is Say.ROLLBACK else None, 9.0, 5.0, "all", 0.0)
    facts = Facts(verdict, held_s=1.0, waited_s=waited_s, calls=10, v1_serves=True)
    move = ramps.advance(replica.ramp.ramp, facts)
    assert move is not None
    await replica.ramp._apply(move)


async def promoted_by_evidence(replica: Replica) -> None:
    await replica.ramp.start("ops", None)
    await look(replica, Say.CONTINUE)
    await look(replica, Say.PROMOTE)


@pytest.mark.parametrize(("end", "told"), ENDS)
async def test_a_start_takes_back_nothing_that_speaks_against_v2(
    replica: Replica, end: Callable[[Replica], Awaitable[None]], told: str
) -> None:
    """Nor does a person's promotion, nor do calls from before; enough calls since then do."""
    await replica.serves(5 * MIN_CALLS)
    assert await replica.told() == ""
    await end(replica)
    assert told in await replica.told()
    await replica.ramp.start("ops", None)
    assert told in await replica.told()
    await replica.ramp.promote("ops", "all the same")
    assert told in await replica.told()
    await replica.serves(MIN_CALLS - 1)
    assert f"since then it has served {MIN_CALLS - 1}" in await replica.told()
    await replica.serves(1)
    assert await replica.told() == ""


async def test_a_promotion_by_evidence_outweighs_an_end_before_it(replica: Replica) -> None:
    """And nothing else of a plan does; a rollback after it speaks against V2 again."""
    await aborted(replica)
    await promoted_by_evidence(replica)
    assert await replica.told() == ""
    await replica.flag.rollback("ops", "prices")
    assert "was rolled back by ops" in await replica.told()


@pytest.mark.parametrize("step", [0, 1])
async def test_a_plan_that_advances_without_evidence_proves_nothing(replica: Replica, step: int) -> None:
    """At its last step, or at an earlier one although the last one is left on evidence; by name it is a judge's end."""
    await replica.ramp.start("ops", None)
    verdicts = [Say.CONTINUE, Say.PROMOTE]
    for at, say in enumerate(verdicts):
        if at == step:
            facts = Facts(Verdict(Say.CONTINUE, None, 0.0, 5.0, "all", 0.0), 9.0, 9.0, 0, v1_serves=True)
            move = ramps.advance(replica.ramp.ramp, facts)
            assert move is not None
            await replica.ramp._apply(move)
        else:
            await look(replica, say)
    assert replica.ramp.ramp.state is ramps.RampState.PROMOTED
    assert "no plan of this V2 ended promoted by evidence" in await replica.told()


async def test_a_person_who_is_called_judge_proves_nothing(replica: Replica) -> None:
    """Evidence is no matter of names."""
    await replica.ramp.start("judge", None)
    await replica.ramp.promote("judge", None)
    assert "no plan of this V2 ended promoted by evidence" in await replica.told()


async def test_a_restart_neither_ends_a_ramp_again_nor_forgets_its_end(replica: Replica, database: Database) -> None:
    """Calls that V2 has served since an abort count over restarts, and a rollback by hand after that is another end."""
    await aborted(replica)
    await replica.flag.change(EVERYTHING)
    await replica.serves(MIN_CALLS)
    assert await replica.told() == ""
    again = replica._replace(trials=trials(database, replica.flag, replica.ramp, replica.v2))
    assert await again.told() == ""
    await replica.flag.rollback("ops", "prices")
    assert "was rolled back by ops" in await again.told()


async def test_calls_of_another_replica_from_before_the_end_count_for_nothing(
    replica: Replica, database: Database
) -> None:
    """They are written late, when the end is in the store already."""
    other = V2()
    late = trials(database, replica.flag, replica.ramp, other)
    await late.flush()
    other.serves(5 * MIN_CALLS)
    await aborted(replica)
    assert "since then it has served 0" in await replica.told()
    late._runs.clear()  # it has not heard of the end
    late._rollback = None
    await late.flush()
    assert "since then it has served 0" in await replica.told()
    other.serves(MIN_CALLS)
    await late.flush()
    assert await replica.told() == ""


async def test_each_own_definition_is_to_be_tried_by_a_call(replica: Replica, database: Database) -> None:
    """A restart keeps what was tried, and an end against V2 does not."""
    signature = Signature((Field("text", "string"),), (Field("result", "string"),))
    own = [Program(key, f"p{key}", Definition("python", signature, "m:f"), 1, "v2") for key in "12"]
    replica.v2.own = own
    await replica.trials.flush()
    await replica.serves(MIN_CALLS)
    own[0].is_untried = False
    assert await replica.told() == "no call has tried V2's own definition of p2"
    for program in own:
        program.is_untried = True
    replica = replica._replace(trials=trials(database, replica.flag, replica.ramp, replica.v2))
    await replica.trials.flush()
    own[1].is_untried = False
    assert await replica.told() == ""
    await aborted(replica)
    await replica.serves(MIN_CALLS)
    assert await replica.told() == "no call has tried V2's own definition of p1, p2"


async def test_a_changed_v2_is_counted_from_its_first_call_on(replica: Replica) -> None:
    """Whoever is told that the change is made may send calls at once."""
    await replica.serves(MIN_CALLS)
    assert await replica.told() == ""
    async with replica.ramp.changing(lambda: "ops set the model"):
        replica.v2.what = "b"
    replica.v2.serves(MIN_CALLS)
    assert await replica.told() == ""


async def test_an_abort_on_another_replica_is_no_rollback(replica: Replica, database: Database) -> None:
    """This one learns of the percentage first, and leaves the words to the one that has ended the ramp."""
    await replica.ramp.start("ops", None)
    await replica.trials.flush()
    ramp = replica.ramp.ramp
    replica.trials._flag_changed(replace(replica.flag.current, canary_basis_points=0, previous_basis_points=100))
    await replica.trials.flush()
    ended = End(Outcome.ABORTED, "ops", "it is wrong", datetime.now(UTC), ramp.run)
    await SqlTrialStore(database).end_run(ramp.run, ended)
    assert "was aborted by ops" in await replica.told()
