"""Opens the parts of the service in their order, hands them to each other, and closes them in reverse."""

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from analysis.guardrails import Config
from app.console.state import Console
from app.deadlines import Deadlines
from app.execute.batch import BatchEndpoint
from app.execute.endpoint import ExecuteLane
from app.opening.catalog import Catalog, open_catalog
from app.opening.comparison import exchange_evidence, open_migration, open_shadow
from app.opening.environment import open_environment
from app.opening.machine import answer_others, open_machine
from app.opening.opening import Opening
from app.opening.pools import open_local_lm, open_pools, open_reloader, start_pools
from app.opening.rollout import follow_sources, open_ramp, open_rollout, open_rotation
from app.opening.storage import follow_machine, follow_replicas, followed_keys, open_store
from app.opening.telemetry import open_recorder, open_tracing, watch_rollout
from app.positions.factory import PoolFactory, PoolSet
from app.positions.identity import log_difference
from app.positions.warmth import WarmStart
from app.services import Services
from app.version import IS_COMPILED, VERSION
from common.threads import start_threads
from config.misnamed import misnamed_settings
from config.settings import Settings
from routing.catalog.warm_list import WarmList
from routing.rollout.evidence_view import EvidenceView
from routing.rollout.flag import RolloutFlag
from routing.rollout.live_judge import LiveJudge
from routing.router import Router
from routing.telemetry.http_metrics import HttpMetrics
from routing.telemetry.pool_figures import PoolFigures
from routing.telemetry.ramp_figures import RampFigures
from routing.versions import Version
from store.database import Database
from store.follower import Follower
from store.rollout_log import SqlRolloutLog
from store.service_secrets import shared_secret

if TYPE_CHECKING:
    from app.application import Application

_log = structlog.stdlib.get_logger("poolshift")


@asynccontextmanager
async def lifespan(app: "Application") -> AsyncIterator[None]:
    """Opens every service, and closes them in reverse order after the `yield`."""
    settings: Settings = app.state.settings
    await start_threads()
    environment = open_environment(settings)
    async with AsyncExitStack() as stack:
        opening = Opening.begin(settings, app.state.replica, open_recorder(app.state.registry, settings), stack)
        machine = open_machine(opening)
        database, follower = await open_store(opening)
        local_lm = open_local_lm(opening, environment)
        catalog = await open_catalog(opening, database, local_lm, app.state.secret_keys)
        log = SqlRolloutLog(database)
        flag = await open_rollout(opening, database, log)
        bookkeeping = catalog.bookkeeping(opening, flag)
        tracing = open_tracing(opening)
        warm_list, replica = WarmList(catalog.programs), opening.replica
        factory = PoolFactory(settings, environment, opening.recorder, opening.background, warm_list, replica)
        pools = await open_pools(opening, factory, log, catalog.lms, flag)
        pin = Version(settings.pool_version) if settings.pool_version else None
        await start_pools(pools, factory, pin, local_lm)
        judge, router = _open_router(opening, pools, flag, catalog, pin)
        ramp = await open_ramp(opening, database, flag, judge, pools, catalog, machine)
        watch_rollout(opening.recorder, follower, router, flag)
        app.state.services = services = Services(
            programs=catalog.programs,
            deleted_programs=catalog.deleted_programs,
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
            shadow=open_shadow(opening, app.state.registry, router, flag, ramp, pools, catalog),
            recorder=opening.recorder,
            tracing=tracing,
            pool_set=pools,
            rotation=open_rotation(opening, database, pools, factory, flag, ramp, catalog),
            reloader=open_reloader(opening, pools, flag, ramp, catalog.programs),
            warm_start=WarmStart(pools.engines, flag, pin, settings.warm_timeout_s, machine.absent),
            deadlines=Deadlines.of(settings),
            machine=machine,
            migration=await open_migration(opening, database, log),
            store_health=database.health,
            registry=app.state.registry,
            figures=PoolFigures(app.state.registry),
            ramp_figures=RampFigures(app.state.registry),
            tasks=opening.tasks,
            background=opening.background,
        )
        _open_lane(app, services)
        bookkeeping.start()
        await _follow_others(app, opening, services, database, follower, catalog, log)
        await _open_console(app, opening, database, follower)
        _started(settings, services)
        yield
        _log.info("stopping")


def _open_router(
    opening: Opening, pools: PoolSet, flag: RolloutFlag, catalog: Catalog, pin: Version | None
) -> tuple[LiveJudge, Router]:
    """Makes the judge and the router, which hears of other replicas' rollbacks before each call."""
    judge = LiveJudge(Config(), is_off=pin is not None or len(pools.engines) < len(Version))
    salt, replica = opening.settings.canary_salt, opening.replica
    router = Router(pools.engines, flag, opening.recorder, catalog.costs, judge=judge, pin=pin, salt=salt)
    opening.run("v2_watch", router.watch.run)
    router.hear = None if replica is None else replica.hear
    return judge, router


async def _follow_others(
    app: "Application",
    opening: Opening,
    services: Services,
    database: Database,
    follower: Follower | None,
    catalog: Catalog,
    log: SqlRolloutLog,
) -> None:
    """Follows other replicas, of this machine and of others, and the sources that set the rollout, plan and keys."""
    flag, ramp = services.flag, services.ramp
    exchange_evidence(opening, services, database)
    follow_replicas(opening, follower, catalog, flag, log, ramp)
    keys = followed_keys(opening, app.state.authenticator)
    await follow_sources(opening, flag, ramp, log, keys)
    follow_machine(opening, follower, flag, keys)


def _open_lane(app: "Application", services: Services) -> None:
    """Makes the execute lane, which counts for the same endpoint as FastAPI's route would, and all beside it."""
    settings: Settings = app.state.settings
    http_metrics: HttpMetrics = app.state.http_metrics
    handler_metrics = http_metrics.of("POST", "/programs/{program_id}/execute")
    app.lane = ExecuteLane(services, app.state.authenticator, settings, handler_metrics, app.state.replica)
    app.batches = BatchEndpoint(services, app.lane, settings.max_body_bytes)
    answer_others(app, services)


async def _open_console(app: "Application", opening: Opening, database: Database, follower: Follower | None) -> None:
    """Opens the console. A secret of all replicas encrypts its cookies: a key of the file, else the store's."""
    secrets = app.state.secret_keys or (await shared_secret(database, "console"),)

    def staleness_s() -> float:
        return follower.staleness_s if follower is not None else 0.0

    state = app.state
    state.console = Console.of(
        opening.settings, state.authenticator, state.assets, secrets, staleness_s, opening.background
    )


def _started(settings: Settings, services: Services) -> None:
    _settle()
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


def _settle() -> None:
    """Has the collections under load skip what lives as long as the service."""
    gc.collect()
    gc.freeze()
