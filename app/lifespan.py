"""Builds the services, hands them to each other, and closes them in reverse: the only module that knows them all."""

import asyncio
import functools
import gc
import json
import math
import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from opentelemetry.semconv.attributes.service_attributes import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION

from analysis.guardrails import Config
from app.access.auth import Authenticator
from app.access.key_file import follow_key_file
from app.console.state import Console
from app.deadlines import Deadlines
from app.execute.batch import BatchEndpoint
from app.execute.endpoint import ExecuteLane
from app.http_metrics import HttpMetrics
from app.local_lm import LocalLMServer
from app.migration_records import MigrationRecords
from app.positions.factory import PoolFactory, PoolSet
from app.positions.identity import evidence_generation, log_difference
from app.positions.reload import CodeReloader
from app.positions.rotation import Rotation, starting_specs
from app.problem_kinds import KINDS
from app.services import Services
from app.sunset import open_sunset
from app.version import IS_COMPILED, VERSION
from common.background import Background
from common.tasks import TaskOwner
from common.threads import start_threads
from config.file_watch import contents
from config.misnamed import misnamed_settings
from config.settings import Settings
from config.worker_environment import with_hash_seed, worker_environment
from pools.engine import Engine
from pools.process.interface import WorkerSpawner
from poolshift.worker.lm import LOCAL, LMSettings
from routing.catalog.bookkeeping import Bookkeeping
from routing.catalog.idempotency import IdempotencyKeys
from routing.catalog.jobs import Jobs
from routing.catalog.lms import LMs
from routing.catalog.programs import Programs
from routing.catalog.quotas import Quotas
from routing.catalog.sessions import Sessions
from routing.migration.usage import Usage
from routing.rollout.controller import RampController
from routing.rollout.evidence_view import EvidenceView
from routing.rollout.file import RolloutFile
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Rollout, Source, to_basis_points
from routing.rollout.plan_file import PlanFile
from routing.rollout.provider import RolloutProvider
from routing.rollout.staleness import limit_staleness
from routing.router import Router
from routing.shadow.evidence import ShadowEvidence
from routing.shadow.exchange import EvidenceExchange
from routing.shadow.gate import LoadGate
from routing.shadow.on_demand import OnDemand
from routing.shadow.runs import ShadowRuns
from routing.shadow.scoring import Scorer
from routing.shadow.tap import ShadowTap
from routing.telemetry.call_trace import CallTrace
from routing.telemetry.pool_figures import PoolFigures
from routing.telemetry.ramp_figures import RampFigures
from routing.telemetry.recorder import Recorder
from routing.telemetry.shadow_metrics import ShadowMetrics
from routing.telemetry.span_export import SpanExport
from routing.telemetry.spans import Export
from routing.telemetry.tracing import Sampling, Tracing
from routing.versions import Version
from store.database import Database
from store.follower import Follower, Handlers
from store.job_store import SqlJobStore
from store.key_store import SqlKeyStore
from store.lm_store import SqlLMStore, lm_holder
from store.migration_store import SqlMigrationStore, SqlUsageStore
from store.outbox import JOB, SqlOutbox
from store.program_store import SqlProgramStore
from store.ramp_store import SqlRampStore
from store.rollout_log import SqlRolloutLog
from store.rotation_store import SqlRotationStore
from store.secret_box import SecretBox
from store.service_secrets import shared_secret
from store.session_store import SqlSessionStore
from store.shadow_store import SqlEvidenceStore

if TYPE_CHECKING:
    from app.application import Application

_log = structlog.stdlib.get_logger("poolshift")


@asynccontextmanager
async def lifespan(app: "Application") -> AsyncIterator[None]:
    """Opens every service, and closes them in reverse order after the `yield`."""
    settings: Settings = app.state.settings
    await start_threads()
    environment = with_hash_seed(worker_environment(os.environ, settings.worker_env.split(",")))
    async with AsyncExitStack() as stack:
        recorder = _open_recorder(app, settings)
        background, tasks = _open_background(recorder, stack)
        database, follower = await _open_store(settings, background, stack)
        local_lm = _open_local_lm(settings, environment, background, stack)
        catalog = await _open_catalog(settings, database, recorder, local_lm, app.state.secret_keys, stack)
        log = SqlRolloutLog(database)
        flag = await _open_rollout(settings, log, recorder)
        bookkeeping = catalog.bookkeeping(flag, background, stack)
        tracing = _open_tracing(settings, recorder, background, stack)
        factory = PoolFactory(settings, environment, recorder, background)
        pool_set = await _open_pools(settings, factory, log, stack)
        pools = pool_set.engines
        pin = Version(settings.pool_version) if settings.pool_version else None
        await _start(pool_set, factory, pin, local_lm)
        judge = LiveJudge(Config(), is_off=pin is not None or len(pools) < len(Version))
        router = Router(pools, flag, recorder, judge=judge, pin=pin, salt=settings.canary_salt)
        ramp = await _open_ramp(settings, database, flag, judge, pools, catalog, background, stack)
        _open_webhooks(settings, database, recorder, background, stack)
        _watch_rollout(recorder, follower, router, flag)
        app.state.services = services = Services(
            programs=catalog.programs,
            sessions=catalog.sessions,
            jobs=catalog.jobs,
            keys=catalog.keys,
            lms=catalog.lms,
            flag=flag,
            pin=pin,
            router=router,
            judge=judge,
            ramp=ramp,
            evidence=EvidenceView(judge),
            shadow=_open_shadow(app, settings, router, flag, ramp, pools, catalog, recorder, stack),
            recorder=recorder,
            tracing=tracing,
            pool_set=pool_set,
            rotation=_open_rotation(settings, pool_set, factory, flag, ramp, catalog, background),
            reloader=_open_reloader(settings, pools, pool_set.spawners, ramp, tasks),
            deadlines=Deadlines.of(settings),
            migration=await _open_migration(settings, recorder, database, log, background, stack),
            registry=app.state.registry,
            figures=PoolFigures(app.state.registry),
            ramp_figures=RampFigures(app.state.registry),
            tasks=tasks,
            background=background,
        )
        _open_lane(app, services, settings)
        bookkeeping.start()
        _exchange_evidence(services, database, background, stack)
        _follow_replicas(settings, follower, catalog, flag, log, background, stack)
        await _follow_sources(settings, flag, ramp, log, app.state.authenticator, background)
        await _open_console(app, settings, database, follower, background)
        _started(settings, services)
        yield
        _log.info("stopping")


async def _open_migration(
    settings: Settings,
    recorder: Recorder,
    database: Database,
    log: SqlRolloutLog,
    background: Background,
    stack: AsyncExitStack,
) -> MigrationRecords:
    """Opens the records of the migration, and adds up the calls of each version by day from now on."""
    versions = tuple(Version) if settings.has_v1 else (Version.V2,)

    def durations() -> dict[Version, tuple[list[int], float, float]]:
        return {version: (recorder.latencies(version), *recorder.seconds(version)) for version in versions}

    usage = Usage(recorder.decisions, durations, SqlUsageStore(database))
    stack.push_async_callback(usage.flush)
    stack.push_async_callback(background.stop, background.run("usage", usage.run))
    sunset = await open_sunset(settings.v1_sunset if settings.has_v1 else None, log)
    if sunset is not None:
        recorder.v1_ends(sunset.at.timestamp())
    return MigrationRecords(SqlMigrationStore(database), usage, sunset)


def _freeze() -> None:
    """Has the collections under load skip what lives as long as the service."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Catalog:
    """Programs, sessions, jobs, idempotency keys and LMs: kept in memory, written behind."""

    programs: Programs
    sessions: Sessions
    jobs: Jobs
    keys: IdempotencyKeys
    lms: LMs
    rotations: SqlRotationStore

    def bookkeeping(self, flag: RolloutFlag, background: Background, stack: AsyncExitStack) -> Bookkeeping:
        """Makes the work in the background that all of it needs."""
        bookkeeping = Bookkeeping(self.programs, self.sessions, self.jobs, self.keys, flag, background)
        stack.push_async_callback(bookkeeping.aclose)
        return bookkeeping

    async def reload(self) -> None:
        """Reads everything again, after this replica has missed changes by others."""
        await self.programs.load()
        await self.sessions.load()
        await self.lms.load()


def _watch_rollout(recorder: Recorder, follower: Follower | None, router: Router, flag: RolloutFlag) -> None:
    """Has the metrics ask, at each scrape, how the rollout is on this replica."""
    recorder.watch(
        staleness=lambda: follower.staleness_s if follower is not None else 0.0,
        rollback=lambda: router.rollback_seconds,
        is_cut_off=lambda: flag.is_cut_off,
    )


def _open_background(recorder: Recorder, stack: AsyncExitStack) -> tuple[Background, TaskOwner]:
    """Opens the two owners of tasks: for those that live as long as the service, and for those of a request."""
    background = Background(recorder.background_restarted)
    tasks = TaskOwner("http")
    stack.push_async_callback(tasks.aclose)
    stack.push_async_callback(background.aclose)
    return background, tasks


async def _open_store(
    settings: Settings, background: Background, stack: AsyncExitStack
) -> tuple[Database, Follower | None]:
    """Opens and migrates the database; with a follower of its changes if other replicas share it."""
    database = Database(settings.database_url.get_secret_value())
    stack.push_async_callback(database.aclose)
    await database.migrate()
    if not database.is_shared:
        background.run("database_guard", database.guard)
        return database, None
    follower = Follower(database, background)
    await follower.mark()
    return database, follower


def _open_local_lm(
    settings: Settings, environment: Mapping[str, str], background: Background, stack: AsyncExitStack
) -> LocalLMServer | None:
    """Opens the small model of this machine, if the settings ask for it."""
    if LOCAL not in settings.lm_models:
        return None
    local_lm = LocalLMServer(environment, background)
    stack.push_async_callback(local_lm.aclose)
    return local_lm


async def _open_catalog(
    settings: Settings,
    database: Database,
    recorder: Recorder,
    local_lm: LocalLMServer | None,
    secret_keys: Sequence[bytes] | None,
    stack: AsyncExitStack,
) -> _Catalog:
    """Loads programs, sessions, jobs and LMs, as the last run or the other replicas left them."""
    at_once = settings.queue_limit + settings.pool("v1").pool_size + settings.pool("v2").pool_size
    quotas = _quotas(settings, at_once)
    programs = Programs(
        SqlProgramStore(database), is_shared=database.is_shared, quotas=quotas, metrics=recorder.programs
    )
    await programs.load()
    sessions = Sessions(
        SqlSessionStore(database),
        programs,
        ttl_s=settings.session_ttl_s,
        is_shared=database.is_shared,
        quotas=quotas,
    )
    await sessions.load()
    job_store = SqlJobStore(database, key_ttl_s=settings.idempotency_ttl_s)
    jobs = Jobs(job_store, limit=at_once, ttl_s=settings.execution_ttl_s, quotas=quotas)
    await jobs.open(is_shared=database.is_shared)
    stack.push_async_callback(jobs.aclose)
    keys = IdempotencyKeys(SqlKeyStore(database), ttl_s=settings.idempotency_ttl_s, quotas=quotas)
    await keys.open(is_shared=database.is_shared)
    stack.push_async_callback(keys.aclose)
    lm_store = SqlLMStore(database, SecretBox(secret_keys) if secret_keys is not None else None)
    lms = LMs(
        lm_store,
        _configured_lm(settings, None),
        local_lm.endpoint if local_lm else None,
        {version: _configured_lm(settings, version) for version in Version if settings.has_lm_of(version.value)},
    )
    await lms.load()
    await lm_store.seal()
    sessions.listen(jobs.end_session)
    sessions.listen(lms.forget_session)
    return _Catalog(
        programs=programs,
        sessions=sessions,
        jobs=jobs,
        keys=keys,
        lms=lms,
        rotations=SqlRotationStore(database, lm_store),
    )


async def _open_rollout(settings: Settings, log: SqlRolloutLog, recorder: Recorder) -> RolloutFlag:
    """Opens the rollout flag, and records it from its first revision on.

    Without V1 the flag moves nothing. It is followed all the same, since other replicas may still have V1.
    """
    percent = settings.canary_percent
    flag = await open_flag(log, None if percent is None else to_basis_points(percent))
    if settings.shadow_percent is not None:
        points = to_basis_points(settings.shadow_percent)
        await flag.apply_shadow(Change(0, Source.ENVIRONMENT, "start", "SHADOW_PERCENT at the start", points))

    def record(rollout: Rollout) -> None:
        recorder.rollout_changed(rollout if settings.has_v1 else replace(rollout, canary_basis_points=10_000))

    record(flag.current)
    flag.listen(record)
    if not settings.has_v1 and percent is not None and percent < 100:
        _log.warning(
            "CANARY_PERCENT has no effect: this service runs without V1 (POOLS=v2)", CANARY_PERCENT=float(percent)
        )
    return flag


def _open_tracing(settings: Settings, recorder: Recorder, background: Background, stack: AsyncExitStack) -> Tracing:
    """Opens the sampling of calls, and the export of sampled calls if the settings name a collector."""
    export = None
    if settings.exports_traces:
        who = {SERVICE_NAME: "poolshift", SERVICE_VERSION: VERSION, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
        how = Export(
            endpoint=settings.traces_endpoint,
            resource=who,
            max_queue_size=settings.otel_bsp_max_queue_size,
            max_batch_size=settings.otel_bsp_max_export_batch_size,
            interval_ms=settings.otel_bsp_schedule_delay,
        )
        export = SpanExport(how, recorder.spans, background)
        stack.push_async_callback(export.aclose)
    sampling = Sampling.named(settings.otel_traces_sampler, settings.otel_traces_sampler_arg)
    return Tracing(sampling, None if export is None else functools.partial(CallTrace, export))


async def _open_pools(settings: Settings, factory: PoolFactory, log: SqlRolloutLog, stack: AsyncExitStack) -> PoolSet:
    """Makes the pools, as the environment or the last rotation has them, without starting them."""
    pools = PoolSet(settings.drain_timeout_s)
    stack.push_async_callback(pools.aclose)
    for version, spec in (await starting_specs(settings, log)).items():
        pools.put(version, factory.make(version, spec))
    return pools


async def _open_ramp(
    settings: Settings,
    database: Database,
    flag: RolloutFlag,
    judge: LiveJudge,
    pools: Mapping[Version, Engine],
    catalog: _Catalog,
    background: Background,
    stack: AsyncExitStack,
) -> RampController:
    """Loads the plan and its evidence, as the last run or the other replicas left them, and carries the plan out."""

    def serves(version: Version) -> bool:
        return version in pools and pools[version].is_ready

    ramp = RampController(
        flag,
        judge,
        SqlRampStore(database, notifies=settings.rollout_webhook_url is not None),
        is_shared=database.is_shared,
        v1_serves=functools.partial(serves, Version.V1),
        v2_serves=functools.partial(serves, Version.V2),
        programs=catalog.programs.count,
        is_lm_on_trial=lambda: catalog.lms.is_on_trial,
    )
    await ramp.open()
    stack.push_async_callback(ramp.aclose)
    stack.push_async_callback(background.stop, background.run("ramp", ramp.run, is_vital=True))
    return ramp


def _open_reloader(
    settings: Settings,
    pools: Mapping[Version, Engine],
    spawners: Mapping[Version, WorkerSpawner],
    ramp: RampController,
    tasks: TaskOwner,
) -> CodeReloader:
    """Makes what reloads the programs' code; it follows the disk by itself if the settings ask for that."""
    reloader = CodeReloader(pools, ramp, tasks, is_automatic=settings.reload)
    if settings.reload:
        for spawner in spawners.values():
            spawner.watch_code(reloader.reload_soon)
    return reloader


def _open_shadow(
    app: "Application",
    settings: Settings,
    router: Router,
    flag: RolloutFlag,
    ramp: RampController,
    pools: Mapping[Version, Engine],
    catalog: _Catalog,
    recorder: Recorder,
    stack: AsyncExitStack,
) -> ShadowRuns:
    """Makes what runs and compares shadow calls, and scores calls by their programs' metrics."""
    metrics = ShadowMetrics(app.state.registry, tuple(pools))
    evidence = ShadowEvidence(ramp.judge, lambda program_id: catalog.programs.resolve(program_id, None))
    gate = LoadGate(settings.shadow_max_cpu_percent)
    scorer = Scorer(
        pools.get(Version.V1) or pools[Version.V2],
        evidence,
        gate,
        metrics,
        sample_percent=settings.quality_sample_percent,
        timeout_s=settings.quality_timeout_s,
        lm_of=lambda session_id: catalog.lms.of_call(session_id, Version.V1),
    )

    def watch(tap: ShadowTap | None) -> None:
        router.tap = tap

    shadow = ShadowRuns(
        pools,
        evidence,
        scorer,
        gate,
        recorder,
        metrics,
        OnDemand(router, catalog.lms, keeps_examples=settings.shadow_examples == "on"),
        timeout_s=settings.shadow_timeout_s,
        keeps_examples=settings.shadow_examples == "on",
        watch=watch,
    )
    stack.push_async_callback(shadow.aclose)
    ramp.when_restarted = shadow.restart
    flag.listen(shadow.rollout_changed)
    shadow.rollout_changed(flag.current)
    return shadow


def _exchange_evidence(services: Services, database: Database, background: Background, stack: AsyncExitStack) -> None:
    """Keeps the evidence of shadow calls in the store from now on, and a last time at the end."""
    exchange = EvidenceExchange(
        services.shadow.evidence,
        SqlEvidenceStore(database),
        functools.partial(evidence_generation, services),
        is_shared=database.is_shared,
    )
    stack.push_async_callback(exchange.aclose)
    stack.push_async_callback(background.stop, background.run("shadow_evidence", exchange.run))


def _open_webhooks(
    settings: Settings, database: Database, recorder: Recorder, background: Background, stack: AsyncExitStack
) -> None:
    """Delivers what the ramp and the jobs tell, if the settings name receivers."""
    if settings.rollout_webhook_url is None and not settings.webhook_allow_list.hosts:
        return
    # Imported here, since a service that notifies nobody does without the HTTP client and is quicker for it.
    from app.webhooks import job_notifier, ramp_notifier  # noqa: PLC0415

    if settings.rollout_webhook_url is not None:
        notifier = ramp_notifier(settings, settings.rollout_webhook_url, SqlOutbox(database), recorder)
        stack.push_async_callback(background.stop, background.run("webhook", notifier.run))
    if settings.webhook_allow_list.hosts:
        notifier = job_notifier(settings, SqlOutbox(database, JOB), recorder)
        stack.push_async_callback(background.stop, background.run("job_webhooks", notifier.run))


def _open_rotation(
    settings: Settings,
    pools: PoolSet,
    factory: PoolFactory,
    flag: RolloutFlag,
    ramp: RampController,
    catalog: _Catalog,
    background: Background,
) -> Rotation:
    """Makes what rotates the pools, on request or after another replica."""
    rotation = Rotation(settings, pools, factory, flag, catalog.rotations, ramp, catalog.programs, catalog.lms)
    if settings.has_v1:
        background.run("rotation", rotation.follow)
    return rotation


async def _start(pools: PoolSet, factory: PoolFactory, pin: Version | None, local_lm: LocalLMServer | None) -> None:
    """Starts all pools and the local model at once, and tries the programs' modules meanwhile.

    The modules are tried as in the pool that must serve. Another pool is on trial: a fault there must not end the
    service.

    Raises:
        InvalidProgramModules: a module of `PROGRAM_MODULES` cannot be imported.
        SpawnFailed: the pool that must serve cannot have workers, and only the operator can repair that.
    """
    serving = pin or next(iter(pools.engines))
    checking = asyncio.create_task(factory.check_modules(pools.specs[serving]))
    try:
        starts = [pools.start(serving)]
        if local_lm is not None:
            starts.append(local_lm.start())
        await asyncio.gather(*starts)
        await checking
    finally:
        checking.cancel()
        await asyncio.wait([checking])


def _follow_replicas(
    settings: Settings,
    follower: Follower | None,
    catalog: _Catalog,
    flag: RolloutFlag,
    log: SqlRolloutLog,
    background: Background,
    stack: AsyncExitStack,
) -> None:
    """Follows the changes that other replicas write, from now on, if there may be any.

    If the settings ask for that, everything goes to V1 while this replica may have missed a rollback.
    """
    if follower is None:
        return
    stack.push_async_callback(follower.aclose)
    follower.start(_handlers(catalog, flag, log), catalog.reload)
    if (max_s := settings.rollout_max_staleness_s) is not None and settings.has_v1:
        background.run("ROLLOUT_MAX_STALENESS_S", lambda: limit_staleness(flag, lambda: follower.staleness_s, max_s))


def _handlers(catalog: _Catalog, flag: RolloutFlag, log: SqlRolloutLog) -> Handlers:
    """Returns the handlers of other replicas' changes, by kind of change."""

    async def rollout(_: str) -> None:
        latest = await log.latest()
        if latest is not None:
            flag.follow(latest)

    async def program(ref: str) -> None:
        await catalog.programs.refresh(*json.loads(ref))

    async def session_ended(ref: str) -> None:
        catalog.sessions.forget(ref)

    async def lm(ref: str) -> None:
        await catalog.lms.refresh(lm_holder(ref))

    return {"rollout": rollout, "program": program, "session_ended": session_ended, "lm": lm}


async def _follow_sources(
    settings: Settings,
    flag: RolloutFlag,
    ramp: RampController,
    log: SqlRolloutLog,
    authenticator: Authenticator,
    background: Background,
) -> None:
    """Applies the values of the sources other than the API, of the rollout, the plan and the keys, from now on."""
    if (path := settings.rollout_file) is not None:
        file = RolloutFile(flag, path.name)
        background.run("ROLLOUT_FILE", lambda: file.follow(contents(path)))
        await file.first_look()
    if settings.rollout_flag is not None:
        provider = RolloutProvider(flag, settings.rollout_flag, settings.rollout_flag_provider)
        background.run("ROLLOUT_FLAG", provider.follow)
    if (keys := settings.api_keys_file) is not None:
        background.run("API_KEYS_FILE", lambda: follow_key_file(keys, contents(keys), authenticator))
    _follow_plan(settings, ramp, log, background)


def _open_recorder(app: "Application", settings: Settings) -> Recorder:
    """Makes the recorder on the application's registry."""
    categories = {code: kind.category for code, kind in KINDS.items()}
    versions = tuple(Version) if settings.has_v1 else (Version.V2,)
    return Recorder(app.state.registry, categories, settings.program_metrics_limit, settings.prices, versions)


def _open_lane(app: "Application", services: Services, settings: Settings) -> None:
    """Makes the execute lane, which counts for the same endpoint as FastAPI's route would, and the batches."""
    http_metrics: HttpMetrics = app.state.http_metrics
    handler_metrics = http_metrics.of("POST", "/programs/{program_id}/execute")
    app.lane = ExecuteLane(services, app.state.authenticator, settings, handler_metrics)
    app.batches = BatchEndpoint(services, app.lane, settings.max_body_bytes)


def _follow_plan(settings: Settings, ramp: RampController, log: SqlRolloutLog, background: Background) -> None:
    """Takes up the plan that a file has, now and whenever the file changes."""
    if (path := settings.rollout_plan_file) is not None:
        file = PlanFile(ramp, log, path.name)
        background.run("ROLLOUT_PLAN_FILE", lambda: file.follow(contents(path)))


def _started(settings: Settings, services: Services) -> None:
    _freeze()
    for name, meant in misnamed_settings().items():
        _log.warning(
            "a variable is named like a setting of a pool, and there is no such setting", name=name, meant=meant
        )
    _log.info(
        "started",
        version=VERSION,
        compiled=IS_COMPILED,
        canary_percent=services.flag.current.canary_percent if settings.has_v1 else 100.0,
        pool_version=services.pin,
        v1_workers=services.pool_set.specs[Version.V1].pool_size if settings.has_v1 else 0,
        v2_workers=services.pool_set.specs[Version.V2].pool_size,
    )
    if settings.has_v1:
        services.tasks.start(log_difference(services))


async def _open_console(
    app: "Application", settings: Settings, database: Database, follower: Follower | None, background: Background
) -> None:
    """Opens the console. A secret of all replicas signs its cookies: a key of the file, else the store's."""
    secrets = app.state.secret_keys or (await shared_secret(database, "console"),)

    def staleness_s() -> float:
        return follower.staleness_s if follower is not None else 0.0

    state = app.state
    state.console = Console.of(settings, state.authenticator, state.assets, secrets, staleness_s, background)


def _quotas(settings: Settings, at_once: int) -> Quotas:
    """Reads the quotas. Neither one session nor one owner can take all places for jobs."""
    return Quotas(
        programs=settings.quota_programs,
        programs_per_session=settings.quota_programs_per_session,
        definition_bytes=settings.quota_definition_bytes,
        definition_bytes_per_session=settings.quota_definition_bytes_per_session,
        sessions=settings.quota_sessions,
        sessions_per_owner=settings.quota_sessions_per_owner,
        jobs_per_session=min(settings.quota_jobs_per_session, math.ceil(at_once / 2)),
        jobs_per_owner=min(settings.quota_jobs_per_owner, math.ceil(at_once * 3 / 4)),
        keys_per_owner=settings.quota_idempotency_keys_per_owner,
        key_bytes_per_owner=settings.quota_idempotency_bytes_per_owner,
    )


def _configured_lm(settings: Settings, version: Version | None) -> LMSettings:
    """Returns the LM that the environment names, for a version or for everyone."""
    lm = settings.lm_of(None if version is None else version.value)
    return LMSettings(lm.model, lm.api_base, lm.api_key.get_secret_value() if lm.api_key is not None else None)
