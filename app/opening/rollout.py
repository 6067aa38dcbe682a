"""Opens the rollout: its flag, its ramp, the rotation of pools, the sources that change it, and who is told."""

import functools
from dataclasses import replace

import structlog

from app.access.key_file import FollowedKeyFile
from app.opening.catalog import Catalog
from app.opening.opening import Opening
from app.opening.retirement import check_retirement
from app.positions.factory import PoolFactory, PoolSet
from app.positions.identity import ramp_identity, v2_identity
from app.positions.rotation import Rotation
from app.replicas.acts import everywhere_warm
from app.replicas.machine import WholeMachine
from config.file_watch import contents
from pools.protocol import Pool
from routing.rollout.controller import PoolFacts, RampController
from routing.rollout.file import RolloutFile
from routing.rollout.flag import RolloutFlag, open_flag
from routing.rollout.live_judge import LiveJudge
from routing.rollout.model import Change, Rollout, Source, to_basis_points
from routing.rollout.plan_file import PlanFile
from routing.rollout.provider import RolloutProvider
from routing.rollout.run_evidence import Catalogue
from routing.rotation.live_trials import LiveTrials, calls_of_v2
from routing.split import BASIS_POINTS
from routing.versions import Version
from store.database import Database
from store.outbox import JOB, SqlOutbox
from store.ramp_store import SqlRampStore
from store.rollout_log import SqlRolloutLog
from store.trial_store import SqlTrialStore

_log = structlog.stdlib.get_logger("poolshift")


async def open_rollout(opening: Opening, database: Database, log: SqlRolloutLog) -> RolloutFlag:
    """Opens the rollout flag, and records it from its first revision on.

    Without V1 the flag moves nothing. It is followed all the same, since other replicas may still have V1.

    Raises:
        InvalidSettings: the service is to run without V1, which still has a share of the traffic.
    """
    settings = opening.settings
    await check_retirement(settings, database, log)
    percent = settings.canary_percent
    flag = await open_flag(log, None if percent is None else to_basis_points(percent))
    if settings.shadow_percent is not None:
        points = to_basis_points(settings.shadow_percent)
        await flag.apply_shadow(
            Change(0, Source.ENVIRONMENT, "start", "SHADOW_PERCENT at the start", shadow_basis_points=points)
        )

    def record(rollout: Rollout) -> None:
        opening.recorder.rollout_changed(
            rollout if settings.has_v1 else replace(rollout, canary_basis_points=BASIS_POINTS)
        )

    record(flag.current)
    flag.listen(record)
    if not settings.has_v1 and percent is not None and percent < 100:
        _log.warning(
            "CANARY_PERCENT has no effect: this service runs without V1 (POOLS=v2)", CANARY_PERCENT=float(percent)
        )
    return flag


async def open_ramp(
    opening: Opening,
    database: Database,
    flag: RolloutFlag,
    judge: LiveJudge,
    pools: PoolSet,
    catalog: Catalog,
    machine: WholeMachine,
) -> RampController:
    """Loads the plan and its evidence, as the last run or the other replicas left them, and carries it out."""
    engines, pin = pools.engines, opening.settings.pool_version

    def serves(version: Version) -> bool:
        return version in engines and engines[version].is_ready

    v2 = engines[Version.V2]
    ramp = RampController(
        flag,
        judge,
        SqlRampStore(database, notifies=opening.settings.rollout_webhook_url is not None),
        PoolFacts(
            v1_serves=functools.partial(serves, Version.V1),
            v2_serves=functools.partial(serves, Version.V2),
            identity=lambda: ramp_identity(pools, catalog.lms, catalog.programs),
            is_warm_for=v2.is_warm_for,
            warmed=functools.partial(_warmed, v2, machine),
            pin=pin,
        ),
        Catalogue(catalog.programs.count, lambda: catalog.lms.is_on_trial, catalog.programs.used_since),
        is_shared=database.is_shared,
        replica=None if opening.replica is None else opening.replica.id,
    )
    await ramp.open()
    opening.at_end(ramp.aclose)
    opening.run("ramp", ramp.run, is_vital=True)
    _open_webhooks(opening, database)
    return ramp


async def _warmed(pool: Pool, machine: WholeMachine, share: float) -> None:
    """Waits until V2 is warm for a share on all replicas, and says so if it does not get warm in time."""
    if not await everywhere_warm(machine, share):
        _log.warning("V2 gets calls although it has too few warm workers", share=share, warm_workers=pool.warm_workers)


def open_rotation(
    opening: Opening,
    database: Database,
    pools: PoolSet,
    factory: PoolFactory,
    flag: RolloutFlag,
    ramp: RampController,
    catalog: Catalog,
) -> Rotation:
    """Makes the `Rotation` of the pools, on request or after another replica, and counts the calls of V2's trial."""
    settings = opening.settings
    trials = LiveTrials(
        v2_identity(pools, catalog.lms, catalog.programs),
        lambda: calls_of_v2(opening.recorder, is_lm_on_trial=catalog.lms.is_on_trial),
        catalog.programs.own_definitions,
        SqlTrialStore(database),
        ramp,
        flag,
        min_calls=settings.rotate_min_calls,
    )
    rotation = Rotation(settings, pools, factory, flag, catalog.rotations, ramp, catalog.programs, catalog.lms, trials)
    if settings.has_v1:
        opening.at_end(trials.aclose)
        opening.run("trials", trials.run)
        opening.background.run("rotation", rotation.follow)
    return rotation


async def follow_sources(
    opening: Opening, flag: RolloutFlag, ramp: RampController, log: SqlRolloutLog, keys: FollowedKeyFile | None
) -> None:
    """Applies, from now on, the rollout, the plan and the keys that files and providers set."""
    settings, background = opening.settings, opening.background
    if (path := settings.rollout_file) is not None:
        file = RolloutFile(flag, path.name)
        background.run("ROLLOUT_FILE", lambda: file.follow(contents(path)))
        await file.first_look()
    if settings.rollout_flag is not None:
        provider = RolloutProvider(flag, settings.rollout_flag, settings.rollout_flag_provider)
        background.run("ROLLOUT_FLAG", provider.follow)
    if keys is not None:
        background.run("API_KEYS_FILE", keys.follow)
    if (plan := settings.rollout_plan_file) is not None:
        plan_file = PlanFile(ramp, log, plan.name)
        background.run("ROLLOUT_PLAN_FILE", lambda: plan_file.follow(contents(plan)))


def _open_webhooks(opening: Opening, database: Database) -> None:
    """Delivers what the ramp and the jobs tell, if the settings name receivers."""
    settings = opening.settings
    if settings.rollout_webhook_url is None and not settings.webhook_allow_list.hosts:
        return
    # Imported here, since a service that notifies nobody does without the HTTP client and is quicker for it.
    from app.opening.webhooks import job_notifier, ramp_notifier  # noqa: PLC0415

    if settings.rollout_webhook_url is not None:
        notifier = ramp_notifier(settings, settings.rollout_webhook_url, SqlOutbox(database), opening.recorder)
        opening.run("webhook", notifier.run)
    if settings.webhook_allow_list.hosts:
        notifier = job_notifier(settings, SqlOutbox(database, JOB), opening.recorder)
        opening.run("job_webhooks", notifier.run)
