"""Opens what compares the versions beside the judge: shadow calls and quality, and the records of the migration."""

import functools

from prometheus_client import CollectorRegistry

from app.opening.catalog import Catalog
from app.opening.opening import Opening
from app.positions.factory import PoolSet
from app.positions.identity import evidence_generation
from app.services import Services
from poolshift.worker.lm import LMSettings, LMUsage
from routing.migration.records import MigrationRecords
from routing.migration.sunset import announced_sunset
from routing.migration.usage import Usage
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.router import Router
from routing.shadow.evidence import ShadowEvidence
from routing.shadow.exchange import EvidenceExchange
from routing.shadow.gate import LoadGate
from routing.shadow.on_demand import OnDemand
from routing.shadow.runs import ShadowRuns
from routing.shadow.scoring import Scorer
from routing.shadow.tap import ShadowTap
from routing.telemetry.shadow_metrics import ShadowMetrics
from routing.versions import Version
from store.database import Database
from store.migration_store import SqlMigrationStore, SqlUsageStore
from store.rollout_log import SqlRolloutLog
from store.shadow_store import SqlEvidenceStore


def open_shadow(
    opening: Opening,
    registry: CollectorRegistry,
    router: Router,
    flag: RolloutFlag,
    ramp: RampController,
    pools: PoolSet,
    catalog: Catalog,
) -> ShadowRuns:
    """Makes what runs and compares shadow calls, and scores calls by their programs' metrics."""
    settings, engines = opening.settings, pools.engines
    metrics = ShadowMetrics(registry, tuple(engines))
    evidence = ShadowEvidence(ramp.judge, lambda program_id: catalog.programs.resolve(program_id, None))
    gate = LoadGate(settings.shadow_max_cpu_percent)
    scoring = Version.V1 if Version.V1 in engines else Version.V2

    def count_tokens(version: Version, lm: LMSettings, usage: LMUsage) -> None:
        opening.recorder.shadow_lm_used(version, lm.model, usage, catalog.costs.of(lm, usage))

    scorer = Scorer(
        engines[scoring],
        evidence,
        gate,
        metrics,
        sample_percent=settings.quality_sample_percent,
        timeout_s=settings.quality_timeout_s,
        lm_of=lambda session_id: catalog.lms.of_call(session_id, Version.V1),
        count_tokens=functools.partial(count_tokens, scoring),
    )

    def watch(tap: ShadowTap | None) -> None:
        router.tap = tap

    shadow = ShadowRuns(
        engines,
        evidence,
        scorer,
        gate,
        opening.recorder,
        metrics,
        OnDemand(router, catalog.lms, keeps_examples=settings.shadow_examples == "on"),
        timeout_s=settings.shadow_timeout_s,
        keeps_examples=settings.shadow_examples == "on",
        count_tokens=count_tokens,
        watch=watch,
    )
    opening.at_end(shadow.aclose)
    ramp.when_restarted = shadow.restart
    ramp.coverage.copies = evidence.copies
    ramp.after.watch = router.watch
    flag.listen(shadow.rollout_changed)
    shadow.rollout_changed(flag.current)
    return shadow


def exchange_evidence(opening: Opening, services: Services, database: Database) -> None:
    """Keeps the evidence of shadow calls in the store from now on, and a last time at the end."""
    exchange = EvidenceExchange(
        services.shadow.evidence,
        SqlEvidenceStore(database),
        functools.partial(evidence_generation, services),
        is_shared=database.is_shared,
    )
    services.shadow.exchange = exchange.exchange
    opening.at_end(exchange.aclose)
    opening.run("shadow_evidence", exchange.run)


async def open_migration(opening: Opening, database: Database, log: SqlRolloutLog) -> MigrationRecords:
    """Opens the records of the migration, and adds up the calls of each version by day from now on."""
    settings, recorder = opening.settings, opening.recorder
    versions = tuple(Version) if settings.has_v1 else (Version.V2,)

    def durations() -> dict[Version, tuple[list[int], float, float]]:
        return {version: (recorder.latencies(version), *recorder.seconds(version)) for version in versions}

    usage = Usage(recorder.decisions, durations, SqlUsageStore(database))
    opening.at_end(usage.flush)
    opening.run("usage", usage.run)
    sunset = await announced_sunset(settings.v1_sunset if settings.has_v1 else None, log)
    if sunset is not None:
        recorder.v1_ends(sunset.at.timestamp())
    return MigrationRecords(SqlMigrationStore(database), usage, sunset)
