"""The services that a running Poolshift consists of; `app.lifespan` builds them and endpoints ask for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from app.deadlines import Deadlines
from app.positions.factory import PoolSet
from app.positions.reload import CodeReloader
from app.positions.rotation import Rotation
from app.positions.warmth import WarmStart
from app.replicas.machine import WholeMachine
from common.background import Background
from common.tasks import TaskOwner
from pools.process.interface import WorkerSpawner
from pools.protocol import Pool
from routing.catalog.deleted_programs import DeletedPrograms
from routing.catalog.idempotency import IdempotencyKeys
from routing.catalog.jobs import Jobs
from routing.catalog.lms import LMs
from routing.catalog.programs import Programs
from routing.catalog.sessions import Sessions
from routing.migration.records import MigrationRecords
from routing.rollout.controller import RampController
from routing.rollout.evidence_view import EvidenceView
from routing.rollout.flag import RolloutFlag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Rollout
from routing.router import Router
from routing.shadow.runs import ShadowRuns
from routing.telemetry.failures import Failures
from routing.telemetry.pool_figures import PoolFigures
from routing.telemetry.ramp_figures import RampFigures
from routing.telemetry.recorder import Recorder
from routing.telemetry.tracing import Tracing
from routing.versions import Version
from store.health import StoreHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that an endpoint may need."""

    programs: Programs
    deleted_programs: DeletedPrograms
    sessions: Sessions
    jobs: Jobs
    keys: IdempotencyKeys
    lms: LMs
    flag: RolloutFlag
    pin: Version | None
    router: Router
    judge: LiveJudge
    ramp: RampController
    evidence: EvidenceView
    shadow: ShadowRuns
    recorder: Recorder
    tracing: Tracing
    pool_set: PoolSet
    rotation: Rotation
    warm_start: WarmStart
    reloader: CodeReloader
    deadlines: Deadlines
    machine: WholeMachine
    migration: MigrationRecords
    store_health: StoreHealth
    registry: CollectorRegistry
    figures: PoolFigures
    ramp_figures: RampFigures
    tasks: TaskOwner
    background: Background
    failures: Failures = field(default_factory=Failures)

    @property
    def pools(self) -> Mapping[Version, Pool]:
        """The pools that run."""
        return self.pool_set.engines

    @property
    def spawners(self) -> Mapping[Version, WorkerSpawner]:
        """The spawners of their workers."""
        return self.pool_set.spawners

    @property
    def serving_version(self) -> Version:
        """The version whose pool must serve: the pinned one, else V1, else the only one."""
        return self.pin or (Version.V1 if Version.V1 in self.pools else next(iter(self.pools)))

    def percent_of(self, rollout: Rollout) -> float:
        """The share of V2 that `rollout` stands for here: everything if the service runs without V1."""
        return rollout.canary_percent if Version.V1 in self.pools else 100.0


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Running = Annotated[Services, Depends(_services)]
