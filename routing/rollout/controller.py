"""Carries a plan out: asks the ramp whether it moves, moves the flag, and remembers every step and verdict."""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from analysis import replicas
from analysis.counters import Counters
from analysis.guardrails import Config
from analysis.verdict import Say, Verdict
from common.log_once import LogOnce
from common.tasks import TaskOwner
from routing.errors import PlanConflict, RollbackUnwritten, StaleRevision, StoreUnavailable
from routing.rollout import ramp as ramps
from routing.rollout.flag import RolloutFlag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Rollout, voids_earlier_changes
from routing.rollout.plan import Plan
from routing.rollout.ramp import Facts, Move, Ramp, RampState, RollBack, SetPercent
from routing.rollout.ramp_store import Decision, RampStore, ReplicaReport, Snapshot, StaleRamp, StoredRamp

TICK_S = 0.5
"""Time between two looks at plan and evidence, in seconds; a fault of V2's causes another look at once."""
SILENT_AFTER_S = 5.0
"""A replica that has said nothing for so long, in seconds, has died or is cut off."""
DOWN_S = 5.0
"""A pool without a live worker for so long, in seconds, is nothing to compare the other with."""
SHARED_LOOK_S = 0.2
"""Time from an event of V2's to the look at the evidence of all replicas, in seconds."""
KEEP_EVERY_S = 5.0
"""Time between two writes of the evidence of a service that shares its database with no other, in seconds."""

ALONE = "only"
"""The name of a service that shares its database with no other: after a restart it goes on with its evidence."""

_log = structlog.stdlib.get_logger("poolshift.ramp")


class RampController:
    """The one place that changes the ramp. Several replicas have one each; the holder of the lease decides."""

    def __init__(
        self,
        flag: RolloutFlag,
        judge: LiveJudge,
        store: RampStore,
        *,
        is_shared: bool,
        v1_serves: Callable[[], bool],
        v2_serves: Callable[[], bool],
        programs: Callable[[], int],
        is_lm_on_trial: Callable[[], bool] = lambda: False,
    ) -> None:
        """Asks `v1_serves` and `v2_serves` whether the pools can serve, and `programs` how many programs there are.

        `is_lm_on_trial` tells if V2 has another LM than V1, whose failures are then judged like V2's own.
        `is_shared` tells that other replicas use the store too.
        """
        self.ramp = Ramp()
        self.since = datetime.now(UTC)
        """The time at which the ramp came into its state."""
        self.replica = uuid.uuid4().hex if is_shared else ALONE
        self.replicas: Sequence[ReplicaReport] = ()
        self.is_leader = False
        self.last_verdict: Verdict | None = None
        self._flag = flag
        self._judge = judge
        self._store = store
        self._v1_serves = v1_serves
        self._v2_serves = v2_serves
        self._programs = programs
        self._is_lm_on_trial = is_lm_on_trial
        self._judges_lm = False
        self._is_shared = is_shared
        self._kept_at = 0.0
        self._revision = 0
        self._dirty = False
        self._generation = "0:0"
        self._basis_points = flag.current.canary_basis_points
        self.when_restarted: Callable[[], None] = lambda: None
        """Called when evidence of any kind is void."""
        self._shadow_points = flag.current.shadow_basis_points
        self._loop = asyncio.get_running_loop()
        self._step_began = self._loop.time()
        self._waiting_since: float | None = None
        self._tasks = TaskOwner("ramp", is_detached=True)
        self._moving = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_acting = False
        self._is_resting = False
        self._v1_served_at = self._v2_served_at = self._loop.time()
        self._said: tuple[str, str | None] | None = None
        self._log_once = LogOnce("ramp cannot be written; this replica judges on by itself")

    def __repr__(self) -> str:
        return f"<RampController {self.ramp!r} revision={self._revision} leads={self.is_leader}>"

    # --- its life

    async def open(self) -> None:
        """Takes up the ramp where the last run left it, evidence included. Raises StoreUnavailable."""
        stored = await self._store.latest()
        if stored is not None:
            self._take_up(stored)
        await self._open_evidence()
        self._flag.listen(self._flag_changed)
        self._judge.listen(self._judged)
        self._judge.percent_changed(self._flag.current.canary_basis_points)
        self._flag_changed(self._flag.current)

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
        """One look: exchanges evidence with the other replicas, and moves the ramp if this one decides."""
        if self._is_resting:
            return
        try:
            await self._exchange()
            await self._flush()
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
            self.is_leader = False
            await self._judge_alone()
            return
        self._log_once.clear()
        self._follow_lms()
        run = self.ramp.run
        verdict = await self._judge.look_together() if self.is_leader else self._judge.look()
        self.last_verdict = verdict
        if self.is_leader:
            await self._decide(verdict)
            await self._advance(verdict, run)

    async def aclose(self) -> None:
        """Writes the evidence a last time."""
        self._judge.close()
        await self._tasks.aclose()
        with suppress(StoreUnavailable):
            await self._flush()
            await self._keep_evidence()

    # --- what people ask for

    async def set_plan(self, plan: Plan | None, by: str) -> Ramp:
        """Keeps `plan` for the next start. Raises PlanConflict, StoreUnavailable."""
        async with self._moving:
            return await self._apply(ramps.set_plan(self.ramp, plan, by))

    async def start(self, by: str, reason: str | None) -> Ramp:
        """Begins the plan, with no evidence. Raises PlanConflict, NoPlan, StoreUnavailable."""
        async with self._moving:
            return await self._apply(ramps.start(self.ramp, by, reason))

    async def pause(self, by: str, reason: str | None) -> Ramp:
        """Stops the ramp where it is. Raises PlanConflict, StoreUnavailable."""
        async with self._moving:
            return await self._apply(ramps.pause(self.ramp, by, reason))

    async def resume(self, by: str, reason: str | None) -> Ramp:
        """Goes on, in spite of the guardrail that paused the ramp. Raises PlanConflict, StoreUnavailable."""
        verdict = self._judge.judge.verdict
        paused_by = verdict.guardrail if verdict.action is Say.PAUSE else None
        async with self._moving:
            ramp = await self._apply(ramps.resume(self.ramp, by, reason, paused_by))
        for guardrail in ramp.acknowledged:
            self._judge.judge.acknowledge(guardrail)
        return ramp

    async def approve(self, by: str, reason: str | None) -> Ramp:
        """Lets the ramp leave its step. Raises PlanConflict, StoreUnavailable."""
        async with self._moving:
            return await self._apply(ramps.approve(self.ramp, by, reason))

    async def promote(self, by: str, reason: str | None) -> Ramp:
        """Gives V2 everything without waiting for evidence. Raises PlanConflict, StoreUnavailable."""
        async with self._moving:
            return await self._apply(ramps.promote(self.ramp, by, reason))

    async def abort(self, by: str, reason: str | None) -> Ramp:
        """Ends the plan and rolls back. Raises PlanConflict, RollbackUnwritten."""
        async with self._moving:
            return await self._apply(ramps.abort(self.ramp, by, reason))

    async def restart_evidence(self, why: str) -> None:
        """Begins with no evidence: other code, another definition or another LM is another canary."""
        self.when_restarted()
        async with self._moving:
            if self._judge.w > 0 or self.ramp.state.is_under_way:
                self._take(ramps.evidence_restarted(self.ramp, why).ramp)
                self._dirty = True
                with suppress(StoreUnavailable):
                    await self._flush()

    # --- what is shown

    @property
    def judge(self) -> LiveJudge:
        """The judge whose verdicts the ramp follows."""
        return self._judge

    def verdict(self) -> Verdict:
        """The verdict of the last look."""
        return self.last_verdict or self._judge.judge.verdict

    def reports(self) -> Sequence[ReplicaReport]:
        """The reports of all replicas, this one included."""
        return [*(one for one in self.replicas if one.id != self.replica), self.report()]

    async def decisions(self, *, limit: int, before: int | None) -> Sequence[Decision]:
        """Verdicts, the newest first, with keys under `before`. Raises StoreUnavailable."""
        return await self._store.decisions(limit=limit, before=before)

    def held_s(self) -> float:
        """Seconds since the step began, or was resumed."""
        return self._loop.time() - self._step_began

    def facts(self, verdict: Verdict) -> Facts:
        """The facts that the ramp is asked with."""
        waited_s = 0.0 if self._waiting_since is None else self._loop.time() - self._waiting_since
        now = self._loop.time()
        if self._v1_serves():
            self._v1_served_at = now
        if self._v2_serves():
            self._v2_served_at = now
        v1_serves, v2_serves = now - self._v1_served_at < DOWN_S, now - self._v2_served_at < DOWN_S
        is_grave = verdict.action in (Say.ROLLBACK, Say.PAUSE)
        told = self._told(verdict) if is_grave and self.ramp.state.is_active else ""
        return Facts(verdict, self.held_s(), waited_s, self._judge.step_calls(), v1_serves, told, v2_serves)

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
        self.last_verdict = verdict
        if self.ramp.state.is_active and verdict.action is Say.ROLLBACK:
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
        self.last_verdict = verdict
        if verdict.action is Say.ROLLBACK and self.is_leader and not self._is_resting:
            move = ramps.advance(self.ramp, self.facts(verdict))
            if move is not None and isinstance(move.effect, RollBack):
                self._take(move.ramp)
                self._dirty = True
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
                self._take(move.ramp)
                self._dirty = True
                await self._flag.rollback(move.ramp.by, effect.reason, source=effect.source)
                await self._flush()
            else:
                await self._write(move)
        finally:
            self._is_acting = False
        return self.ramp

    async def _write(self, move: Move) -> None:
        """Writes a move that is not a rollback, and then the percentage that it sets. Raises PlanConflict."""
        found = self.ramp
        async with self._writing:
            if self.ramp != found:
                raise ramps.moved_elsewhere(self.ramp)
            await self._write_alone(move)

    async def _write_alone(self, move: Move) -> None:
        await self._flag.flush()
        ramp, rollout, epoch = self.ramp, self._flag.current, self._flag.epoch
        stored = await self._append(move.ramp)
        own = rollout
        try:
            if isinstance(move.effect, SetPercent):
                own = await self._set_percent(move.effect, move.ramp.by, rollout, epoch) or rollout
        finally:
            if self.ramp is not ramp:  # by the judge's rollback, which is still to be written
                self._revision = stored.revision
            else:
                self._adopt(stored)
                if self._flag.current.revision != own.revision or self._flag.epoch != epoch:
                    self._overtaken(rollout, is_rollback=self._flag.epoch != epoch)

    def _overtaken(self, before: Rollout, *, is_rollback: bool) -> None:
        """Lets the ramp follow a change that came while its move was written, as it does at other times."""
        current = self._flag.current
        if not is_rollback and current.canary_basis_points == before.canary_basis_points:
            return  # of the shadow's share alone
        end = ramps.percent_changed(self.ramp, current)
        if end is not None:
            self._take(end.ramp)
            self._dirty = True
            self._wake.set()

    async def _append(self, ramp: Ramp) -> StoredRamp:
        try:
            return await self._store.append(ramp, after=self._revision)
        except StaleRamp as stale:
            self._adopt(stale.current)
            raise ramps.moved_elsewhere(stale.current.ramp) from None

    async def _set_percent(self, effect: SetPercent, by: str, before: Rollout, epoch: int) -> Rollout | None:
        """Sets the percentage, and returns the revision; None if it is set, or the rollout has changed since `before`.

        `epoch` is the flag's at that time.
        """
        if before.canary_basis_points == effect.basis_points:
            return None
        change = Change(effect.basis_points, effect.source, by, effect.reason)
        try:
            return await self._flag.change(change, expected=before.revision, asked_in=epoch)
        except StaleRevision:
            return None

    async def _reconcile(self) -> None:
        """Moves the flag to the ramp's share, if the service or the database failed between the two writes."""
        effect = ramps.own_share(self.ramp)
        if effect is not None:
            await self._set_percent(effect, ramps.PLAN, self._flag.current, self._flag.epoch)

    async def _flush(self) -> None:
        """Writes a ramp that is in force here and not in the store yet."""
        async with self._writing:
            while self._dirty:
                ramp = self.ramp
                try:
                    stored = await self._store.append(ramp, after=self._revision)
                except StaleRamp as stale:
                    stored = stale.current
                else:
                    if self.ramp is not ramp:  # a rollback has come meanwhile, and is still to be written
                        self._revision = stored.revision
                        continue
                self._adopt(stored)

    def follow(self, stored: StoredRamp) -> None:
        """Takes up a revision that another replica has written."""
        if stored.revision > self._revision:
            self._adopt(stored)

    def _take_up(self, stored: StoredRamp) -> None:
        """Goes on with the ramp that the store has: nothing has moved since."""
        self._revision = stored.revision
        self._put(stored.ramp)
        self.since = stored.at
        if stored.ramp.state is not RampState.IDLE:
            _log.info("ramp found", state=stored.ramp.state, step=stored.ramp.step + 1, by=stored.ramp.by)

    def _adopt(self, stored: StoredRamp) -> None:
        self._revision = stored.revision
        self._dirty = False
        self._take(stored.ramp)

    def _take(self, ramp: Ramp) -> None:
        """Moves on to `ramp`, and says so."""
        before = self.ramp
        self._put(ramp)
        if (ramp.state, ramp.step) != (before.state, before.step):
            self.since = datetime.now(UTC)
            _log.info("ramp moved", state=ramp.state, step=ramp.step + 1, by=ramp.by, reason=ramp.reason)

    def _put(self, ramp: Ramp) -> None:
        """Puts `ramp` in the place of the one before, with its clocks and its evidence."""
        before, self.ramp = self.ramp, ramp
        now = self._loop.time()
        if ramp.step != before.step or (ramp.state is RampState.RAMPING and not before.state.is_active):
            self._step_began = now
        self._waiting_since = (self._waiting_since or now) if ramp.state is RampState.WAITING else None
        if ramp.run != before.run:
            self._begin_evidence(ramp)

    def _begin_evidence(self, ramp: Ramp) -> None:
        config = self._judge.judge.config
        if ramp.plan is not None:
            before = config
            config = replace(self._planned(ramp.plan), shard=before.shard, shards=before.shards)
            self._judge.latency_floor_ms = ramp.plan.latency_floor_ms
        self._judge.restart(config)
        self.last_verdict = None
        self._said = None
        self._generation = f"{ramp.run}:{self._generation.partition(':')[2]}"

    def _planned(self, plan: Plan) -> Config:
        self._judges_lm = self._is_lm_on_trial()
        return plan.judge_config(self._programs(), is_lm_on_trial=self._judges_lm)

    def _follow_lms(self) -> None:
        """Judges V2's LM from now on, or no longer, if another replica has changed the LMs."""
        if self.ramp.plan is None or self._is_lm_on_trial() == self._judges_lm:
            return
        before = self._judge.judge.config
        self._go_on(replace(self._planned(self.ramp.plan), shard=before.shard, shards=before.shards))

    def _go_on(self, config: Config) -> None:
        """Judges the same evidence by another configuration."""
        self._judge.restart(config, self._judge.judge.counters)
        for guardrail in self.ramp.acknowledged:
            self._judge.judge.acknowledge(guardrail)

    def _flag_changed(self, rollout: Rollout) -> None:
        """Takes note of every revision of the flag, the ramp's own ones too."""
        self._judge.percent_changed(rollout.canary_basis_points)
        if self._flag.is_cut_off:
            return  # it is this replica alone that sends everything to V1
        before, self._basis_points = self._basis_points, rollout.canary_basis_points
        shadow_before, self._shadow_points = self._shadow_points, rollout.shadow_basis_points
        if self._basis_points < before:
            self._generation = f"{self.ramp.run}:{rollout.revision}"
        if self._is_acting:
            return
        is_rollback = voids_earlier_changes(rollout.canary_basis_points, rollout.source)
        if self._basis_points == before and self._shadow_points != shadow_before and not is_rollback:
            return  # a change of the shadow alone does not concern the ramp
        move = ramps.percent_changed(self.ramp, rollout)
        if move is not None:
            self._take(move.ramp)
            self._dirty = True
            self._wake.set()

    # --- evidence

    async def _decide(self, verdict: Verdict) -> None:
        """Keeps a verdict that is another one than before."""
        said = (str(verdict.action), verdict.guardrail)
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

    async def _open_evidence(self) -> None:
        """Takes up what runs of this service before, and other replicas, have seen at this percentage."""
        self._generation = f"{self.ramp.run}:{await self._last_fall()}"
        evidence = await self._store.evidence(self._generation)
        snapshot = evidence.get(self.replica)
        counters = Counters.from_data(snapshot["counters"]) if snapshot is not None else None
        config = None
        if self.ramp.plan is not None:
            config = self._planned(self.ramp.plan)
            self._judge.latency_floor_ms = self.ramp.plan.latency_floor_ms
        self._judge.restart(config, counters)
        for guardrail in self.ramp.acknowledged:
            self._judge.judge.acknowledge(guardrail)
        self._hear_others(evidence)

    async def _last_fall(self) -> int:
        """The revision at which the percentage last fell: evidence from before it does not count."""
        for rollout in await self._flag.history(limit=256):
            previous = rollout.previous_basis_points
            if previous is not None and rollout.canary_basis_points < previous:
                return rollout.revision
        return 0

    async def _exchange(self) -> None:
        """Learns what the other replicas know; alone, keeps the evidence for a restart now and then."""
        if not self._is_shared:
            self.is_leader = True
            if self._judge.w > 0 and self._loop.time() - self._kept_at >= KEEP_EVERY_S:
                await self._keep_evidence()
            return
        exchange = await self._store.exchange(self.report(), self._generation, self._snapshot())
        self.is_leader, self.replicas = exchange.is_leader, exchange.replicas
        self._share_keys()
        if exchange.ramp is not None:
            self.follow(exchange.ramp)
        self._hear_others(exchange.evidence)

    def _share_keys(self) -> None:
        """Takes this replica's share of the key space: each key's latency and assignment count on one replica.

        A key that changes its replica may count again, so that a new start copy of the evidence begins.
        """
        oldest = datetime.now(UTC) - timedelta(seconds=SILENT_AFTER_S)
        living = {one.id for one in self.replicas if one.seen_at >= oldest} | {self.replica}
        shard, shards = sorted(living).index(self.replica), len(living)
        judge = self._judge.judge
        if (shard, shards) != (judge.config.shard, judge.config.shards):
            self._go_on(replace(judge.config, shard=shard, shards=shards))

    async def _keep_evidence(self) -> None:
        self._kept_at = self._loop.time()
        snapshot = self._snapshot()
        if snapshot is not None:
            await self._store.put_evidence(self._generation, self.replica, snapshot)

    def report(self) -> ReplicaReport:
        """The report of this replica."""
        revision = self._flag.current.revision
        return ReplicaReport(self.replica, datetime.now(UTC), revision, (self._judge.calls[0], self._judge.calls[1]))

    def _snapshot(self) -> Snapshot | None:
        if self._judge.w == 0.0:
            return None
        return replicas.snapshot(self._judge.judge.counters, self._judge.judge.keyed)

    def _hear_others(self, evidence: Mapping[str, Snapshot]) -> None:
        snapshots = [evidence[replica] for replica in sorted(evidence) if replica != self.replica]
        self._judge.hear_others(replicas.others(self._judge.judge.keyed, snapshots))
