"""Builds the parts, hands them to each other, and takes them down in reverse: the one place that knows them all."""

import asyncio
import functools
import gc
import json
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
from opentelemetry.semconv.attributes.service_attributes import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION

from app.auth import Authenticator
from app.execute.endpoint import ExecuteLane
from app.http_metrics import HttpMetrics
from app.key_file import follow_key_file
from app.local_lm import LocalLMServer
from app.problems import KINDS
from app.services import Parts
from app.version import IS_COMPILED, VERSION
from common.following import keep_following
from common.tasks import TaskOwner
from config.file_watch import contents
from config.settings import Settings
from config.worker_environment import worker_environment
from pools.engine import Engine, PoolOptions
from pools.process.spawner import Spawner
from pools.session_pool import SessionPool
from pools.session_pool_v2 import SessionPoolV2
from pools.supervisor import RecycleLimits
from poolshift.worker.lm import LOCAL, NONE, LMSettings
from poolshift.worker.loading import DSPY_PROGRAMS
from routing.catalog.bookkeeping import Bookkeeping
from routing.catalog.jobs import Executions
from routing.catalog.lms import LMs
from routing.catalog.programs import Programs
from routing.catalog.sessions import Sessions
from routing.rollout.file import RolloutFile
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.model import to_basis_points
from routing.rollout.provider import RolloutProvider
from routing.router import Router
from routing.telemetry.call_trace import CallTrace
from routing.telemetry.pool_figures import PoolFigures
from routing.telemetry.recorder import Recorder
from routing.telemetry.span_export import SpanExport
from routing.telemetry.spans import Export
from routing.telemetry.tracing import Sampling, Tracing
from routing.versions import Version
from store.database import Database
from store.execution_store import SqlExecutionStore
from store.follower import Follower, Handlers
from store.lm_store import SqlLMStore
from store.program_store import SqlProgramStore
from store.rollout_log import SqlRolloutLog
from store.session_store import SqlSessionStore

if TYPE_CHECKING:
    from app.application import Application

_ENGINES: Mapping[Version, type[Engine]] = MappingProxyType({Version.V1: SessionPool, Version.V2: SessionPoolV2})

_log = structlog.stdlib.get_logger("poolshift")


@asynccontextmanager
async def lifespan(app: "Application") -> AsyncIterator[None]:
    """From an empty process to a service that can serve, and back. Each step is undone in reverse order."""
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        tasks = TaskOwner("http")
        stack.push_async_callback(tasks.aclose)

        # What is remembered.
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.aclose)
        await database.migrate()
        follower = Follower(database) if database.is_shared else None
        if follower is not None:
            await follower.mark()
        programs = Programs(SqlProgramStore(database), is_shared=database.is_shared)
        await programs.load()
        sessions = Sessions(SqlSessionStore(database), programs, ttl_s=settings.session_ttl_s)
        at_once = settings.queue_limit + settings.v1_pool_size + settings.v2_pool_size
        executions = Executions(SqlExecutionStore(database), limit=at_once, ttl_s=settings.execution_ttl_s)
        await executions.open(is_shared=database.is_shared)
        stack.push_async_callback(executions.aclose)
        sessions.listen(executions.end_session)
        environment = worker_environment(os.environ, settings.worker_env.split(","))
        local_lm = LocalLMServer(environment) if settings.lm_model == LOCAL else None
        lms = LMs(SqlLMStore(database), _configured_lm(settings), local_lm.endpoint if local_lm else None)
        await lms.load()
        sessions.listen(lms.forget_session)

        # What decides.
        recorder = Recorder(app.state.registry, {code: kind.category for code, kind in KINDS.items()})
        percent = settings.canary_percent
        log = SqlRolloutLog(database)
        flag = await open_flag(log, None if percent is None else to_basis_points(percent))
        recorder.rollout_changed(flag.current)
        flag.listen(recorder.rollout_changed)
        bookkeeping = Bookkeeping(programs, sessions, executions, flag)
        stack.push_async_callback(bookkeeping.aclose)

        # What is told of sampled calls.
        export = _open_export(settings, recorder) if settings.exports_traces else None
        if export is not None:
            stack.push_async_callback(export.aclose)
        tracing = _open_tracing(settings, export)

        # What runs programs.
        preload = ["poolshift.worker.tracing.program"] if export is not None else []
        if settings.lm_model != NONE:
            preload.append(DSPY_PROGRAMS)
        spawner = Spawner(settings.allowed_modules, environment, preload)
        stack.push_async_callback(spawner.aclose)
        pools = {
            version: _ENGINES[version](version, _pool_options(settings, version), spawner, recorder)
            for version in map(Version, settings.pools.split(","))
        }
        for pool in pools.values():
            stack.push_async_callback(pool.aclose)
        starts = [pool.start() for pool in pools.values()]
        if local_lm is not None:
            stack.push_async_callback(local_lm.aclose)
            starts.append(local_lm.start())
        await asyncio.gather(*starts)

        # What ties them together.
        pin = Version(settings.pool_version) if settings.pool_version else None
        router = Router(pools, flag, recorder, pin=pin, salt=settings.canary_salt)
        recorder.watch(
            staleness=lambda: follower.staleness_s if follower is not None else 0.0,
            rollback=lambda: router.rollback_seconds,
        )
        figures = PoolFigures(app.state.registry)
        parts = Parts(
            programs,
            sessions,
            executions,
            lms,
            flag,
            pin,
            router,
            recorder,
            tracing,
            pools,
            spawner,
            app.state.registry,
            figures,
            tasks,
        )
        http_metrics: HttpMetrics = app.state.http_metrics
        app.state.parts = parts
        app.lane = ExecuteLane(
            parts, app.state.authenticator, settings, http_metrics.of("POST", "/programs/{program_id}/execute")
        )
        bookkeeping.start()
        if follower is not None:

            async def reload() -> None:
                await programs.load()
                await lms.load()

            stack.push_async_callback(follower.aclose)
            follower.start(_handlers(programs, sessions, lms, flag, log), reload)
        _follow_sources(settings, flag, app.state.authenticator, tasks)
        _log.info(
            "started",
            version=VERSION,
            compiled=IS_COMPILED,
            canary_percent=flag.current.canary_percent,
            pool_version=pin,
            v1_workers=settings.v1_pool_size,
            v2_workers=settings.v2_pool_size,
        )
        # What is there now stays: no collection need look at it again, and there are many under load.
        gc.collect()
        gc.freeze()
        yield
        _log.info("stopping")


def _open_export(settings: Settings, recorder: Recorder) -> SpanExport:
    who = {SERVICE_NAME: "poolshift", SERVICE_VERSION: VERSION, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
    how = Export(
        endpoint=settings.traces_endpoint,
        resource=who,
        max_queue_size=settings.otel_bsp_max_queue_size,
        max_batch_size=settings.otel_bsp_max_export_batch_size,
        interval_ms=settings.otel_bsp_schedule_delay,
    )
    return SpanExport(how, recorder.spans)


def _open_tracing(settings: Settings, export: SpanExport | None) -> Tracing:
    sampling = Sampling.named(settings.otel_traces_sampler, settings.otel_traces_sampler_arg)
    return Tracing(sampling, None if export is None else functools.partial(CallTrace, export))


def _handlers(programs: Programs, sessions: Sessions, lms: LMs, flag: RolloutFlag, log: SqlRolloutLog) -> Handlers:
    """What to do about what another replica has written."""

    async def rollout(_: str) -> None:
        latest = await log.latest()
        if latest is not None:
            flag.follow(latest)

    async def program(ref: str) -> None:
        await programs.refresh(*json.loads(ref))

    async def session_ended(ref: str) -> None:
        sessions.forget(ref)

    async def lm(ref: str) -> None:
        await lms.refresh(ref or None)

    return {"rollout": rollout, "program": program, "session_ended": session_ended, "lm": lm}


def _follow_sources(settings: Settings, flag: RolloutFlag, authenticator: Authenticator, tasks: TaskOwner) -> None:
    """Hears what the sources of the rollout and of the keys say, beside the API, from now on."""
    if (path := settings.rollout_file) is not None:
        file = RolloutFile(flag, path.name)
        tasks.start(keep_following("ROLLOUT_FILE", lambda: file.follow(contents(path))))
    if settings.rollout_flag is not None:
        provider = RolloutProvider(flag, settings.rollout_flag, settings.rollout_flag_provider)
        tasks.start(keep_following("ROLLOUT_FLAG", provider.follow))
    if (keys := settings.api_keys_file) is not None:
        tasks.start(keep_following("API_KEYS_FILE", lambda: follow_key_file(keys, contents(keys), authenticator)))


def _configured_lm(settings: Settings) -> LMSettings:
    """The LM that the environment names."""
    key = settings.lm_api_key
    return LMSettings(settings.lm_model, settings.lm_api_base, key.get_secret_value() if key is not None else None)


def _pool_options(settings: Settings, version: Version) -> PoolOptions:
    rss_mb = settings.worker_max_rss_mb
    return PoolOptions(
        size=settings.v1_pool_size if version is Version.V1 else settings.v2_pool_size,
        queue_limit=settings.queue_limit,
        checkout_timeout_s=settings.checkout_timeout_s,
        recycle=RecycleLimits(
            executions=settings.worker_max_executions,
            rss_bytes=None if rss_mb is None else rss_mb * 1024 * 1024,
            age_s=settings.worker_max_age_s,
        ),
    )
