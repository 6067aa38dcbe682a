"""Opens the store, and follows what other replicas write to it."""

import json

from app.access.auth import Authenticator
from app.access.key_file import FollowedKeyFile
from app.opening.catalog import Catalog
from app.opening.opening import Opening
from app.replicas.replica import Parts
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.rollout.staleness import limit_staleness
from store.database import Database
from store.follower import Follower, Handlers
from store.lm_store import lm_holder
from store.rollout_log import SqlRolloutLog


async def open_store(opening: Opening) -> tuple[Database, Follower | None]:
    """Opens and migrates the database; with a follower of its changes if other replicas share it."""
    replica = opening.replica
    share = None if replica is None else replica.machine.share
    database = Database(opening.settings.database_url.get_secret_value(), share=share)
    opening.at_end(database.aclose)
    await database.migrate()
    if replica is not None:
        database.on_announced = replica.has_announced
    if not database.is_postgresql:
        opening.background.run("database_guard", database.guard)
    if not database.is_shared:
        return database, None
    follower = Follower(database, opening.background)
    await follower.mark()
    return database, follower


def follow_replicas(
    opening: Opening,
    follower: Follower | None,
    catalog: Catalog,
    flag: RolloutFlag,
    log: SqlRolloutLog,
    ramp: RampController,
) -> None:
    """Follows the changes that other replicas write, from now on, if there may be any.

    If the settings ask for that, everything goes to V1 while this replica may have missed a rollback.
    """
    if follower is None:
        return
    opening.at_end(follower.aclose)
    follower.start(_handlers(catalog, flag, log, ramp), catalog.reload)
    max_s = opening.settings.rollout_max_staleness_s
    if max_s is not None and opening.settings.has_v1:
        name = "ROLLOUT_MAX_STALENESS_S"
        opening.background.run(name, lambda: limit_staleness(flag, lambda: follower.staleness_s, max_s))


def followed_keys(opening: Opening, authenticator: Authenticator) -> FollowedKeyFile | None:
    """Makes what follows the file of API keys, if the settings name one, and tells the other replicas of changes."""
    path, replica = opening.settings.api_keys_file, opening.replica
    if path is None:
        return None
    return FollowedKeyFile(path, authenticator, replica.has_read_keys if replica is not None else lambda: None)


def follow_machine(
    opening: Opening, follower: Follower | None, flag: RolloutFlag, keys: FollowedKeyFile | None
) -> None:
    """Follows the other replicas of this machine, from now on, if there are any."""
    replica = opening.replica
    if replica is None:
        return
    assert follower is not None  # replicas share their database
    replica.begin(Parts(flag, follower.catch_up, None if keys is None else keys.read))
    opening.run("replica", replica.run, is_vital=True)


def _handlers(catalog: Catalog, flag: RolloutFlag, log: SqlRolloutLog, ramp: RampController) -> Handlers:
    """Returns the handlers of other replicas' changes, by kind of change."""

    async def rollout(_: str) -> None:
        latest = await log.latest()
        if latest is not None:
            flag.follow(latest)

    async def program(ref: str) -> None:
        await catalog.programs.refresh(*json.loads(ref))

    async def session_ended(ref: str) -> None:
        await catalog.sessions.ended_elsewhere(ref)

    async def session_begun(ref: str) -> None:
        await catalog.sessions.begun_elsewhere(ref)

    async def ramp_moved(_: str) -> None:
        await ramp.catch_up()

    async def lm(ref: str) -> None:
        await catalog.lms.refresh(lm_holder(ref))

    return {
        "rollout": rollout,
        "program": program,
        "session_ended": session_ended,
        "session_begun": session_begun,
        "ramp": ramp_moved,
        "lm": lm,
    }
