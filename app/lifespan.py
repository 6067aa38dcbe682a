"""Builds the parts, hands them to each other, and takes them down in reverse: the one place that knows them all."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from fastapi import FastAPI

from app.execute import ExecuteLane
from app.http_metrics import HttpMetrics
from app.key_file import follow_key_file
from app.parts import Parts
from app.problems import KINDS
from config.file_watch import contents
from config.settings import Settings
from config.worker_environment import worker_environment
from pools.crew import RecycleLimits
from pools.engine import PoolOptions
from pools.registry import ENGINES
from pools.spawner import Spawner
from pools.tasks import TaskOwner
from routing.bookkeeping import Bookkeeping
from routing.executions import Executions
from routing.pool_figures import PoolFigures
from routing.programs import Programs
from routing.recorder import Recorder
from routing.rollout import RolloutFlag, open_flag
from routing.rollout_file import RolloutFile
from routing.rollout_model import to_basis_points
from routing.rollout_provider import RolloutProvider
from routing.router import Router
from routing.sessions import Sessions
from routing.versions import Version
from store.database import Database
from store.execution_store import SqlExecutionStore
from store.follower import Follower, Handlers
from store.program_store import SqlProgramStore
from store.rollout_log import SqlRolloutLog
from store.session_store import SqlSessionStore

_log = structlog.stdlib.get_logger("poolshift")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
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

        # What decides.
        recorder = Recorder(app.state.registry, {code: kind.category for code, kind in KINDS.items()})
        percent = settings.canary_percent
        log = SqlRolloutLog(database)
        flag = await open_flag(log, None if percent is None else to_basis_points(percent))
        recorder.rollout_changed(flag.current)
        flag.listen(recorder.rollout_changed)
        bookkeeping = Bookkeeping(programs, sessions, executions, flag)
        stack.push_async_callback(bookkeeping.aclose)

        # What runs programs.
        environment = worker_environment(os.environ, settings.worker_env.split(","))
        spawner = Spawner(settings.allowed_modules, environment)
        stack.push_async_callback(spawner.aclose)
        pools = {
            version: ENGINES[version](version, _pool_options(settings, version), spawner, recorder)
            for version in map(Version, settings.pools.split(","))
        }
        for pool in pools.values():
            stack.push_async_callback(pool.aclose)
        await asyncio.gather(*(pool.start() for pool in pools.values()))

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
            flag,
            pin,
            router,
            recorder,
            pools,
            spawner,
            app.state.registry,
            figures,
            tasks,
        )
        http_metrics: HttpMetrics = app.state.http_metrics
        app.state.parts = parts
        app.state.lane = ExecuteLane(
            parts, app.state.authenticator, settings, http_metrics.of("POST", "/programs/{program_id}/execute")
        )
        bookkeeping.start()
        if follower is not None:
            stack.push_async_callback(follower.aclose)
            follower.start(_handlers(programs, sessions, flag, log), programs.load)
        _follow_sources(settings, flag, tasks)
        if settings.api_keys_file is not None:
            keys = contents(settings.api_keys_file)
            tasks.start(follow_key_file(settings.api_keys_file, keys, app.state.authenticator))
        _log.info(
            "started",
            canary_percent=flag.current.canary_percent,
            pool_version=pin,
            v1_workers=settings.v1_pool_size,
            v2_workers=settings.v2_pool_size,
        )
        yield
        _log.info("stopping")


def _handlers(programs: Programs, sessions: Sessions, flag: RolloutFlag, log: SqlRolloutLog) -> Handlers:
    """What to do about what another replica has written."""

    async def rollout(_: str) -> None:
        latest = await log.latest()
        if latest is not None:
            flag.follow(latest)

    async def program(ref: str) -> None:
        await programs.refresh(*json.loads(ref))

    async def session_ended(ref: str) -> None:
        sessions.forget(ref)

    return {"rollout": rollout, "program": program, "session_ended": session_ended}


def _follow_sources(settings: Settings, flag: RolloutFlag, tasks: TaskOwner) -> None:
    """Hears what the rollout's sources beside the API say, from now on."""
    if settings.rollout_file is not None:
        file = RolloutFile(flag, settings.rollout_file.name)
        tasks.start(file.follow(contents(settings.rollout_file)))
    if settings.rollout_flag is not None:
        tasks.start(RolloutProvider(flag, settings.rollout_flag, settings.rollout_flag_provider).follow())


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
