"""Carries a plan out: asks the ramp whether it moves, moves the flag, and remembers every step and verdict."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from analysis.verdict import Say, Verdict
from common.log_once import LogOnce
from common.tasks import TaskOwner
from routing.errors import PlanConflict, PlanMoved, RollbackUnwritten, StoreUnavailable
from routing.rollout import ramp as ramps
from routing.rollout.after_promotion import AfterPromotion
from routing.rollout.causes import Cause, Causes
from routing.rollout.coverage import CoverageView
from routing.rollout.flag import RolloutFlag
from routing.rollout.identity import Identity
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Rollout, voids_earlier_changes
from routing.rollout.plan import Plan
from routing.rollout.ramp import Facts, Move, Note, Ramp, RollBack, SetPercent
from routing.rollout.ramp_clock import ServingSince
from routing.rollout.ramp_record import RampRecord
from routing.rollout.ramp_store import Decision, RampStore, ReplicaReport, StoredRamp
from routing.rollout.run_evidence import Catalogue, RunEvidence
from routing.rollout.share_writer import ShareWriter
from routing.split import BASIS_POINTS

TICK_S: Final = 0.5
"""Time between two looks at plan and evidence, in seconds; a fault of V2's causes another look at once."""
SHARED_LOOK_S: Final = 0.2
"""Time from an event of V2's to the look at the evidence of all replicas, in seconds."""
FOUND_AFTER_S: Final = 300.0
"""A ramp that no service has carried out for so long, in seconds, is paused when one finds it."""

_log = structlog.stdlib.get_logger("poolshift.ramp")


async def _at_once(_: float) -> None:
    """Waits for nothing: these pools have no programs that take long to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """The questions that the controller has for the pools."""

    v1_serves: Callable[[], bool]
    v2_serves: Callable[[], bool]
    identity: Callable[[], Awaitable[Identity | None]]
    """Tells what both pools are; None if one of them does not tell."""
    is_warm_for: Callable[[float], bool] = lambda _: True
    """Tells if V2 has the warm workers that a share of the traffic, from 0 to 1, needs."""
    warmed: Callable[[float], Awaitable[None]] = _at_once
    """Waits until V2 is warm for a share, for a bounded time."""
    pin: str | None = None
    """The version that `POOL_VERSION` pins all calls to."""


class RampController:
    """The one place that changes the ramp. Several replicas have one each; the holder of the lease decides.

    Over 300 lines: a move is one sequence of the ramp, its store and the flag, which must not be interleaved.
    """

    def __init__(
        self,
        flag: RolloutFlag,
        judge: LiveJudge,
        store: RampStore,
        pools: PoolFacts,
        catalogue: Catalogue,
        *,
        is_shared: bool,
        replica: str | None = None,
    ) -> None:
        """`is_shared` tells that other replicas use the store too, to which this one is known as `replica`."""
        self.evidence = RunEvidence(judge, store, flag, catalogue, is_shared=is_shared, replica=replica)
        self._seen: tuple[int, Verdict] | None = None
        """The verdict of the last look, with the run that it is about."""
        self.when_restarted: Callable[[], None] = lambda: None
        """Called when evidence of any kind is void."""
        self.when_changed: Callable[[], Awaitable[None]] | None = None
        """Awaited after a change of the pools, before anybody is told that it is made."""
        self.coverage: Final = CoverageView(judge, catalogue.used_since)
        self.after: Final = AfterPromotion(judge)
        self._causes = Causes()
        self._identity: Identity | None = None
        """The pools as they were at the last look at which they were known."""
        self._flag = flag
        self._judge = judge
        self._store = store
        self._pools = pools
        self._is_shared = is_shared
        self._record = RampRecord(store, self.evidence)
        self._share = ShareWriter(flag)
        self._v1, self._v2 = ServingSince(pools.v1_serves), ServingSince(pools.v2_serves)
        self._is_identified = False
        self._basis_points = flag.current.canary_basis_points
        self._shadow_points = flag.current.shadow_basis_points
        self._tasks = TaskOwner("ramp", is_detached=True)
        self._moving = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_acting = False
        self._is_resting = False
        self._said: tuple[int, str, str | None] | None = None
        self._log_once = LogOnce("ramp cannot be written; this replica judges on by itself")

    def __repr__(self) -> str:
        return f"<RampController {self._record!r} leads={self.evidence.is_leader}>"

    @property
    def ramp(self) -> Ramp:
        """The ramp as it is on this replica."""
        return self._record.ramp

    @property
    def since(self) -> datetime:
        """The time at which the ramp came into its state."""
        return self._record.since

    # --- its life

    async def open(self) -> None:
        """Takes up the ramp where the last run left it, evidence included. Raises StoreUnavailable."""
        found = await self._store.find()
        if found is not None:
            self._record.take_up(found)
            await self._pause_if_forgotten(found.idle_s)
            await self._record.flush()
        self._judge.percent_changed(self._flag.current.canary_basis_points)
        await self._follow_identity()
        await self.evidence.open(self.ramp)
        self._flag.listen(self._flag_changed)
        self._judge.listen(self._judged)
        self._flag_changed(self._flag.current)

    def listen(self, listener: Callable[[Ramp, Ramp], None]) -> None:
        """Calls `listener` with the ramp before and after each change of its state, or of its run."""
        self._record.listeners.append(listener)

    async def run(self) -> None:
        """Looks at plan and evidence until it is cancelled."""
        while True:
            await self.tick()
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
                    if self._is_shared:  # a burst of faults is one look
                        await asyncio.sleep(SHARED_LOOK_S)

    def rest(self) -> None:
        """Decides nothing any more: the service is ending, and its pools with it."""
        self._is_resting = True

    async def tick(self) -> None:
        """One look: exchanges evidence with the other replicas, and moves the ramp if this one decides.

        While the store does not answer, this replica goes by its own evidence.
        """
        if self._is_resting:
            return
        try:
            await self._look_and_move()
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
            self.evidence.is_leader = False
            await self._judge_alone()
        else:
            self._log_once.clear()

    async def _look_and_move(self) -> None:
        stored = await self.evidence.exchange(self.ramp)
        if stored is not None:
            self.follow(stored)
        await self._record.flush()
        await self._follow_identity()
        self.evidence.follow_lms(self.ramp)
        run = self.ramp.run
        verdict = await self._judge.look_together() if self.evidence.is_leader else self._judge.look()
        self._seen = run, verdict
        if self.evidence.is_leader:
            if self.ramp.is_at_last_step:
                await self.coverage.look()
            await self._follow_pin()
            await self._decide(verdict)
            await self._advance(verdict, run)
        await self._look_after_promotion()

    async def _look_after_promotion(self) -> None:
        """Acts if the calls of this replica show that V2 has become worse since its promotion."""
        promoted_s = (datetime.now(UTC) - self.since).total_seconds()
        alarm = self.after.look(self.ramp, promoted_s, len(self.reports()))
        if alarm is None:
            return
        _log.error("V2 has become worse since its promotion", reason=alarm.reason)
        async with self._moving:
            move = ramps.relapsed(self.ramp, alarm.reason, rolls_back=alarm.rolls_back)
            if move is not None:
                evidence = {"reason": alarm.reason, "run": self.ramp.run}
                with suppress(RollbackUnwritten, PlanConflict):
                    await self._apply(move)
                word = "rollback" if alarm.rolls_back else "alert"
                await self._store.decide(Decision(word, "after", evidence, datetime.now(UTC)))

    async def aclose(self) -> None:
        """Writes the evidence a last time."""
        self._judge.close()
        await self._tasks.aclose()
        with suppress(StoreUnavailable):
            await self._record.flush()
            await self.evidence.keep(self.ramp)

    # --- what people ask for

    async def set_plan(self, plan: Plan | None, by: str) -> Ramp:
        """Keeps `plan` for the next start. Raises PlanConflict, StoreUnavailable."""
        async with self._moving:
            return await self._apply(ramps.set_plan(self.ramp, plan, by))

    async def start(self, by: str, reason: str | None, *, lowers: bool = False) -> Ramp:
        """Begins the plan, with no evidence; `lowers` lets it take a part of V2's share away.

        If another replica moves the ramp meanwhile, as all do after a change of the percentage, and leaves the plan as
        it is, the plan begins after that.

        Raises:
            PlanConflict: a plan is under way, V2 gets more than the first step says, or a pin decides all calls.
            NoPlan: there is none.
            StoreUnavailable: the start cannot be written.
        """
        self._refuse_pinned()
        await self._warmed(ramps.first_share(self.ramp))
        identity = await self._pools.identity()
        async with self._moving:
            plan = self.ramp.plan
            try:
                return await self._start(by, reason, identity, lowers=lowers)
            except PlanMoved:
                if self.ramp.plan != plan:
                    raise
            return await self._start(by, reason, identity, lowers=lowers)

    async def _start(self, by: str, reason: str | None, identity: Identity | None, *, lowers: bool) -> Ramp:
        share = self._flag.current.canary_basis_points
        return await self._apply(ramps.start(self.ramp, by, reason, share, identity, lowers=lowers))

    async def pause(self, by: str, reason: str | None) -> Ramp:
        """Stops the ramp where it is. Raises PlanConflict, StoreUnavailable."""
        async with self._moving:
            return await self._apply(ramps.pause(self.ramp, by, reason))

    async def resume(self, by: str, reason: str | None) -> Ramp:
        """Goes on, in spite of the guardrail that paused the ramp. Raises PlanConflict, StoreUnavailable."""
        self._refuse_pinned()
        verdict = self._judge.judge.verdict
        paused_by = verdict.guardrail if verdict.action is Say.PAUSE else None
        async with self._moving:
            ramp = await self._apply(ramps.resume(self.ramp, by, reason, paused_by))
        for guardrail in ramp.acknowledged:
            self._judge.judge.acknowledge(guardrail)
        return ramp

    async def approve(self, by: str, reason: str | None, step: int | None = None) -> Ramp:
        """Lets the ramp leave its step, which is `step` if that is given. Raises PlanConflict, StoreUnavailable."""
        self._refuse_pinned()
        async with self._moving:
            return await self._apply(ramps.approve(self.ramp, by, reason, step))

    async def promote(self, by: str, reason: str | None) -> Ramp:
        """Gives V2 everything without waiting for evidence. Raises PlanConflict, StoreUnavailable."""
        self._refuse_pinned()
        if self.ramp.state.is_under_way:
            await self._warmed(BASIS_POINTS)
        async with self._moving:
            return await self._apply(ramps.promote(self.ramp, by, reason))

    async def abort(self, by: str, reason: str | None) -> Ramp:
        """Ends the plan and rolls back. Raises PlanConflict, RollbackUnwritten."""
        async with self._moving:
            return await self._apply(ramps.abort(self.ramp, by, reason))

    async def _warmed(self, basis_points: int) -> None:
        """Waits until V2 has the warm workers for a share, so that its first calls wait for no program to load."""
        await self._pools.warmed(basis_points / BASIS_POINTS)

    def _refuse_pinned(self) -> None:
        if self._pools.pin is not None:
            raise PlanConflict(
                f"POOL_VERSION={self._pools.pin} pins all calls, so that no version can be compared: "
                "start the service without it"
            )

    @asynccontextmanager
    async def changing(self, tell: Callable[[], str]) -> AsyncIterator[Cause]:
        """Begins the step again, with no evidence, after a change of the pools: they are another canary.

        If the change shows before its end, the step begins again at once, and at the end once more. The history gets
        one line, with the words of `tell`. A change that raises, or is withdrawn, tells nothing.
        """
        cause = Cause(tell)
        self._causes.add(cause)
        try:
            yield cause
        except BaseException:
            self._causes.drop(cause)
            raise
        if cause.is_withdrawn:
            self._causes.drop(cause)
            return
        cause.is_made = True
        self.when_restarted()
        await self._restart_evidence()
        if self.when_changed is not None:
            await self.when_changed()

    async def _restart_evidence(self) -> None:
        async with self._moving:
            identity, why = await self._pools.identity(), self._causes.words()
            if self._judge.w > 0 or self.ramp.state.is_under_way:
                with suppress(StoreUnavailable):
                    await self._begin_again(ramps.evidence_restarted(self.ramp, why, identity))
            if identity is not None:
                self._is_identified, self._identity, self.evidence.is_foreign = True, identity, False
                self._causes.settle()

    async def _begin_again(self, move: Move) -> None:
        """Brings a move about that voids evidence: in memory at once, since what was evidence is none any more."""
        self._record.take(move.ramp)
        await self._record.flush()
        if isinstance(move.effect, Note) and self.ramp == move.ramp:
            await self._share.write_now(move.effect, move.ramp.by)

    async def _follow_identity(self) -> None:
        """Begins the step again if the pools are others than those that the evidence is about."""
        identity = await self._pools.identity()
        self._is_identified = identity is not None
        if identity is None:
            return
        if self._identity not in (None, identity):
            self.when_restarted()
        self._identity = identity
        was_foreign = self.evidence.is_foreign
        is_other = self._is_other(identity)
        self.evidence.is_foreign = is_other and bool(self.ramp.identity.parts)
        if is_other and self._decides_on_identity(is_sure=was_foreign or not self.evidence.is_foreign):
            await self._begin_with_other_pools()
        self._causes.settle()

    async def _begin_with_other_pools(self) -> None:
        async with self._moving:
            identity = await self._pools.identity()  # again: a change may have told of itself meanwhile
            if identity is None or not self._is_other(identity):
                return
            before = self.ramp
            changed = before.identity.difference(identity)
            move = ramps.pools_found(
                before, identity, lambda: self._causes.words() if self._causes else f"{changed} changed"
            )
            await self._begin_again(move)
            if move.ramp.run != before.run:
                _log.warning("other pools than the evidence is about", changed=changed)
            self.evidence.is_foreign = False

    def _is_other(self, identity: Identity) -> bool:
        return ramps.is_foreign(self.ramp, identity, has_evidence=self._judge.w > 0)

    def _decides_on_identity(self, *, is_sure: bool) -> bool:
        """Tells if this replica says what the evidence is about. Alone it does so before its first look, too.

        The leader of several looks twice: a replica that makes a change says so itself, with its words, and the
        leader may learn of the change first, or of the ramp's new identity. No evidence counts between the two looks.
        """
        return bool(self._causes) or not self._is_shared or (self.evidence.is_leader and is_sure)

    async def _pause_if_forgotten(self, idle_s: float) -> None:
        move = ramps.found_after(self.ramp, idle_s) if idle_s > FOUND_AFTER_S else None
        if move is not None:
            with suppress(PlanConflict):  # another replica was faster
                await self._apply(move)

    async def _follow_pin(self) -> None:
        """Holds a ramp while a pin decides all calls, and says so; lets it go afterwards."""
        move = ramps.pin_found(self.ramp, self._pools.pin)
        if move is not None:
            async with self._moving:
                with suppress(PlanConflict):
                    await self._apply(move)

    # --- what is shown

    @property
    def judge(self) -> LiveJudge:
        """The judge whose verdicts the ramp follows."""
        return self._judge

    def verdict(self) -> Verdict:
        """The verdict of the last look at this run."""
        run, verdict = self._seen or (None, None)
        return verdict if verdict is not None and run == self.ramp.run else self._judge.judge.verdict

    def reports(self) -> Sequence[ReplicaReport]:
        """The reports of all replicas, this one included."""
        return self.evidence.reports()

    async def decisions(self, *, limit: int, before: int | None) -> Sequence[Decision]:
        """Verdicts, the newest first, with keys under `before`. Raises StoreUnavailable."""
        return await self._store.decisions(limit=limit, before=before)

    def facts(self, verdict: Verdict) -> Facts:
        """The facts that the ramp is asked with."""
        is_grave = verdict.action in (Say.ROLLBACK, Say.PAUSE)
        return Facts(
            verdict,
            held_s=self._record.clock.held_s(),
            waited_s=self._record.clock.waited_s(),
            calls=self._judge.step_calls(),
            v1_serves=self._v1.is_up(),
            told=self._told(verdict) if is_grave and self.ramp.state.is_under_way else "",
            v2_serves=self._v2.is_up(),
            is_identified=self._is_identified,
            is_warm=self._pools.is_warm_for(ramps.next_share(self.ramp) / BASIS_POINTS),
            is_current=not self.evidence.is_foreign,
            pin=self._pools.pin,
            coverage=self.coverage.latest,
        )

    @property
    def pin(self) -> str | None:
        """The version that all calls are pinned to, so that no ramp moves anything."""
        return self._pools.pin

    def _told(self, verdict: Verdict) -> str:
        try:
            return self._judge.told(verdict.guardrail)
        except Exception:  # a rollback does not depend on the words for it
            _log.exception("the reason of a verdict cannot be told", guardrail=verdict.guardrail)
            return ""

    # --- moving

    async def _advance(self, verdict: Verdict, run: int) -> None:
        """Moves the ramp on a verdict about `run`; one that has begun meanwhile has evidence of its own."""
        async with self._moving:
            await self._reconcile()
            if self.ramp.run != run:
                return
            move = ramps.advance(self.ramp, self.facts(verdict))
            if move is not None:
                with suppress(RollbackUnwritten, PlanConflict):
                    await self._apply(move)

    async def _judge_alone(self) -> None:
        """Rolls back on this replica's own evidence, as long as the database cannot be reached."""
        verdict, run = self._judge.look(), self.ramp.run
        self._seen = run, verdict
        if self.ramp.is_guarded and verdict.action is Say.ROLLBACK:
            async with self._moving:
                move = ramps.advance(self.ramp, self.facts(verdict))
                if move is not None and self.ramp.run == run:
                    with suppress(RollbackUnwritten):
                        await self._apply(move)

    def _judged(self, verdict: Verdict | None) -> None:
        """Acts at once on a look that an event of V2's has caused; a store that hangs must not hold up a rollback."""
        if verdict is None:  # the evidence of all replicas has to be summed up first
            self._wake.set()
            return
        self._seen = self.ramp.run, verdict
        if verdict.action is Say.ROLLBACK and self.evidence.is_leader and not self._is_resting:
            move = ramps.advance(self.ramp, self.facts(verdict))
            if move is not None and isinstance(move.effect, RollBack):
                self._record.take(move.ramp)
                self._tasks.start(self._roll_back(move.ramp.by, move.effect))
        if verdict.action in (Say.ROLLBACK, Say.PAUSE):
            self._wake.set()

    async def _roll_back(self, by: str, effect: RollBack) -> None:
        with suppress(RollbackUnwritten):
            await self._flag.rollback(by, effect.reason, source=effect.source)

    async def _apply(self, move: Move) -> Ramp:
        """Brings a move about. A rollback is in force in memory before anything is written.

        If the percentage changes while another move is being written, that change wins, and the move sets none.
        """
        effect = move.effect
        self._is_acting = True
        try:
            if isinstance(effect, RollBack):
                self._record.take(move.ramp)
                await self._flag.rollback(move.ramp.by, effect.reason, source=effect.source)
                await self._record.flush()
            else:
                await self._write(move)
        finally:
            self._is_acting = False
        return self.ramp

    async def _write(self, move: Move) -> None:
        """Writes a move that is not a rollback, and then the percentage that it sets. Raises PlanConflict."""
        found = self.ramp
        async with self._record.writing:
            if self.ramp != found:
                raise ramps.moved_elsewhere(self.ramp)
            await self._write_alone(move)

    async def _write_alone(self, move: Move) -> None:
        await self._flag.flush()
        ramp, rollout, epoch = self.ramp, self._flag.current, self._flag.epoch
        stored = await self._record.append(move.ramp)
        own = rollout
        try:
            if isinstance(move.effect, SetPercent | Note):
                own = await self._share.write(move.effect, move.ramp.by, rollout, epoch) or rollout
        finally:
            if self.ramp is not ramp:  # by the judge's rollback, which is still to be written
                self._record.written_behind(stored)
            else:
                self._record.adopt(stored)
                if self._flag.current.revision != own.revision or self._flag.epoch != epoch:
                    self._overtaken(rollout, is_rollback=self._flag.epoch != epoch)

    def _overtaken(self, before: Rollout, *, is_rollback: bool) -> None:
        """Lets the ramp follow a change that came while its move was written, as it does at other times."""
        current = self._flag.current
        if not is_rollback and current.canary_basis_points == before.canary_basis_points:
            return  # of the shadow's share alone
        end = ramps.percent_changed(self.ramp, current)
        if end is not None:
            self._record.take(end.ramp)
            self._wake.set()

    async def _reconcile(self) -> None:
        """Moves the flag to the ramp's share, if the service or the database failed between the two writes."""
        effect = ramps.own_share(self.ramp)
        rises = effect is not None and effect.basis_points > self._flag.current.canary_basis_points
        if effect is not None and not (rises and self._pools.pin is not None):
            await self._share.write_now(effect, ramps.PLAN)

    def follow(self, stored: StoredRamp) -> None:
        """Takes up a revision that another replica has written."""
        self._record.follow(stored)

    async def catch_up(self) -> None:
        """Takes up the newest revision of the store. Raises StoreUnavailable."""
        found = await self._store.find()
        if found is not None:
            self.follow(found.stored)

    def _flag_changed(self, rollout: Rollout) -> None:
        """Takes note of every revision of the flag, the ramp's own ones too."""
        self._judge.percent_changed(rollout.canary_basis_points)
        if self._flag.is_cut_off:
            return  # it is this replica alone that sends everything to V1
        before, self._basis_points = self._basis_points, rollout.canary_basis_points
        shadow_before, self._shadow_points = self._shadow_points, rollout.shadow_basis_points
        self.evidence.rollout_changed(rollout)
        if self._is_acting:
            return
        is_rollback = voids_earlier_changes(rollout.canary_basis_points, rollout.source)
        if self._basis_points == before and self._shadow_points != shadow_before and not is_rollback:
            return  # a change of the shadow alone does not concern the ramp
        move = ramps.percent_changed(self.ramp, rollout)
        if move is not None:
            self._record.take(move.ramp)
            self._wake.set()

    # --- evidence

    async def _decide(self, verdict: Verdict) -> None:
        """Keeps a verdict that is another one than before."""
        said = (self.ramp.run, str(verdict.action), verdict.guardrail)
        is_over = self._judge.w == 0.0 and verdict.action is Say.CONTINUE
        if said == self._said or is_over:
            return
        await self._store.decide(self._decision(verdict))
        self._said = said

    def _decision(self, verdict: Verdict) -> Decision:
        examples = self._judge.examples().get(verdict.guardrail or "", ())
        evidence: dict[str, Any] = {
            "log_e": verdict.log_e,
            "threshold": verdict.threshold,
            "stratum": verdict.stratum,
            "canary_percent": 100 * self._judge.judge.w,
            "step": self.ramp.step,
            "run": self.ramp.run,
            "rows": [asdict(row) for row in self._judge.analysis()],
            "examples": [asdict(example) for example in examples],
        }
        return Decision(str(verdict.action), verdict.guardrail, evidence, datetime.now(UTC))
