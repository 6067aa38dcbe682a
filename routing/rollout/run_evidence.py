"""The evidence of a ramp's run: kept for a restart, exchanged with other replicas, begun again with each run."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from analysis import replicas
from analysis.counters import Counters
from analysis.guardrails import Config
from routing.rollout.coverage import no_programs
from routing.rollout.flag import RolloutFlag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Rollout
from routing.rollout.plan import Plan
from routing.rollout.ramp import Ramp
from routing.rollout.ramp_store import RampStore, ReplicaReport, Snapshot, StoredRamp

KEEP_EVERY_S: Final = 5.0
"""Time between two writes of the evidence of a service that shares its database with no other, in seconds."""
ALONE: Final = "only"
"""The name of a service that shares its database with no other: after a restart it goes on with its evidence."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Facts about programs and LMs that the judge's settings follow from."""

    programs: Callable[[], int]
    """Tells how many programs there are."""
    is_lm_on_trial: Callable[[], bool] = lambda: False
    """Tells if V2 has another LM than V1, whose failures are then judged like V2's own."""
    used_since: Callable[[float], Awaitable[Sequence[str]]] = no_programs
    """Reads the ids of programs with an execution in the last seconds."""


class RunEvidence:
    """The evidence that this replica's judge has of a run, and its sum with the other replicas'.

    Evidence belongs to a generation: to one run of the ramp, and to the time since the percentage last fell.
    """

    def __init__(
        self,
        judge: LiveJudge,
        store: RampStore,
        flag: RolloutFlag,
        catalogue: Catalogue,
        *,
        is_shared: bool,
        replica: str | None = None,
    ) -> None:
        """Takes `is_shared` if other replicas use the store too, and the name of this one if it has any."""
        self.judge = judge
        self.replica = (replica or uuid.uuid4().hex) if is_shared else ALONE
        self.replicas: Sequence[ReplicaReport] = ()
        """The other replicas' reports, and this one's last."""
        self.is_leader = False
        self.is_foreign = False
        """True while this replica's pools are not those that the ramp's evidence is about."""
        self._store = store
        self._flag = flag
        self._catalogue = catalogue
        self._is_shared = is_shared
        self._judges_lm = False
        self._run = 0
        self._fell_at = 0
        """The revision at which the percentage last fell."""
        self._compared = ""
        """The generation of which calls were compared at the last exchange, until its evidence is written."""
        self._kept_at = 0.0
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<RunEvidence {self.generation} of {self.replica} leads={self.is_leader}>"

    @property
    def generation(self) -> str:
        """The name that evidence is kept under."""
        return f"{self._run}:{self._fell_at}"

    # --- its life

    async def open(self, ramp: Ramp) -> None:
        """Takes up what runs of this service before, and other replicas, have seen. Raises StoreUnavailable."""
        self._run, self._fell_at = ramp.run, await self._last_fall()
        evidence = await self._store.evidence(self.generation)
        snapshot = evidence.get(self.replica)
        counters = Counters.from_data(snapshot["counters"]) if snapshot is not None else None
        self._begin(ramp, None if ramp.plan is None else self._planned(ramp.plan), counters)
        self._hear_others(evidence)

    def begin(self, ramp: Ramp) -> None:
        """Begins the run of `ramp`, with no evidence."""
        self._run = ramp.run
        config = before = self.judge.judge.config
        if ramp.plan is not None:
            config = replace(self._planned(ramp.plan), shard=before.shard, shards=before.shards)
        self._begin(ramp, config, None)

    def _begin(self, ramp: Ramp, config: Config | None, counters: Counters | None) -> None:
        if ramp.plan is not None:
            self.judge.latency_floor_ms = ramp.plan.latency_floor_ms
        self.judge.restart(config, counters)
        self._acknowledge(ramp)

    def rollout_changed(self, rollout: Rollout) -> None:
        """Takes note of a revision of the flag: evidence from before a fall of the percentage does not count."""
        if _falls(rollout):
            self._fell_at = rollout.revision

    async def _last_fall(self) -> int:
        for rollout in await self._flag.history(limit=256):
            if _falls(rollout):
                return rollout.revision
        return 0

    # --- the judge's settings

    def follow_lms(self, ramp: Ramp) -> None:
        """Judges V2's LM from now on, or no longer, if another replica has changed the LMs."""
        if ramp.plan is None or self._catalogue.is_lm_on_trial() == self._judges_lm:
            return
        before = self.judge.judge.config
        self._go_on(ramp, replace(self._planned(ramp.plan), shard=before.shard, shards=before.shards))

    def _planned(self, plan: Plan) -> Config:
        self._judges_lm = self._catalogue.is_lm_on_trial()
        return plan.judge_config(self._catalogue.programs(), is_lm_on_trial=self._judges_lm)

    def _go_on(self, ramp: Ramp, config: Config) -> None:
        """Judges the same evidence by another configuration."""
        self.judge.restart(config, self.judge.judge.counters)
        self._acknowledge(ramp)

    def _acknowledge(self, ramp: Ramp) -> None:
        for guardrail in ramp.acknowledged:
            self.judge.judge.acknowledge(guardrail)

    # --- other replicas, and a restart

    async def exchange(self, ramp: Ramp) -> StoredRamp | None:
        """Learns what the other replicas know, and returns their ramp; alone, keeps the evidence for a restart.

        Raises StoreUnavailable.
        """
        if self.judge.w > 0.0:
            self._compared = self.generation
        if not self._is_shared:
            self.is_leader = True
            if self._loop.time() - self._kept_at >= KEEP_EVERY_S:
                await self.keep(ramp)
            return None
        exchange = await self._store.exchange(self.report(), self.generation, self._snapshot())
        self.is_leader, self.replicas = exchange.is_leader, exchange.replicas
        self._share_keys(ramp)
        self._hear_others(exchange.evidence)
        return exchange.ramp

    async def keep(self, ramp: Ramp) -> None:
        """Writes this replica's evidence, and while a plan is under way that it lives. Raises StoreUnavailable."""
        self._kept_at = self._loop.time()
        snapshot = self._snapshot()
        if snapshot is not None or ramp.state.is_under_way:
            await self._store.keep(self.report(), self.generation, snapshot)

    def report(self) -> ReplicaReport:
        """The report of this replica."""
        calls = self.judge.calls
        return ReplicaReport(self.replica, datetime.now(UTC), self._flag.current.revision, (calls[0], calls[1]))

    def reports(self) -> Sequence[ReplicaReport]:
        """The reports of all replicas, this one included."""
        return [*(one for one in self.replicas if one.id != self.replica), self.report()]

    def _snapshot(self) -> Snapshot | None:
        """The evidence while calls are compared, and once after that: the last step's is needed after a promotion."""
        if self.is_foreign:
            return None
        if self.judge.w == 0.0:
            compared, self._compared = self._compared, ""
            if compared != self.generation:
                return None
        return replicas.snapshot(self.judge.judge.counters, self.judge.judge.keyed)

    def _share_keys(self, ramp: Ramp) -> None:
        """Takes this replica's share of the key space: each key's latency and assignment count on one replica.

        A key that changes its replica may count again, so that a new start copy of the evidence begins.
        """
        living = {one.id for one in self.replicas if not one.is_silent} | {self.replica}
        shard, shards = sorted(living).index(self.replica), len(living)
        judge = self.judge.judge
        if (shard, shards) != (judge.config.shard, judge.config.shards):
            self._go_on(ramp, replace(judge.config, shard=shard, shards=shards))

    def _hear_others(self, evidence: Mapping[str, Snapshot]) -> None:
        snapshots = [evidence[replica] for replica in sorted(evidence) if replica != self.replica]
        self.judge.hear_others(replicas.others(self.judge.judge.keyed, snapshots))


def _falls(rollout: Rollout) -> bool:
    previous = rollout.previous_basis_points
    return previous is not None and rollout.canary_basis_points < previous
