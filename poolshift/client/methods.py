"""The methods of both clients, by group: each is named and described here, once.

A group of `Client` answers a described call at once, a group of `AsyncClient` with a coroutine.
"""

from poolshift.client import executions, failures, migration, pools, programs, ramp, rollout, sessions, shadow
from poolshift.client.binding import Lists, Sends, Streams


class ProgramMethods:
    """Programs and their definitions."""

    create = Sends(programs.create)
    put = Sends(programs.put)
    apply = Sends(programs.apply)
    promote = Sends(programs.promote)
    demote = Sends(programs.demote)
    restore = Sends(programs.restore)
    deletions = Lists(programs.deletions)
    get = Sends(programs.show)
    list = Lists(programs.listed)
    delete = Sends(programs.delete)
    revisions = Lists(programs.revisions)


class JobMethods:
    """Runs in the background."""

    submit = Sends(executions.submit)
    get = Sends(executions.show)
    list = Lists(executions.listed)
    cancel = Sends(executions.cancel)
    events = Streams(executions.events)


class SessionMethods:
    """Sessions and what they hold."""

    get = Sends(sessions.show)
    list = Lists(sessions.listed)
    end = Sends(sessions.end)


class LMMethods:
    """The language model of a session, or everyone's."""

    get = Sends(sessions.show_lm)
    set = Sends(sessions.set_lm)
    remove = Sends(sessions.remove_lm)
    restore = Sends(sessions.restore_lm)


class RolloutMethods:
    """The flag, and the ramp that moves it."""

    get = Sends(rollout.show)
    change = Sends(rollout.change)
    roll_back = Sends(rollout.roll_back)
    rotate = Sends(rollout.rotate)
    unrotate = Sends(rollout.unrotate)
    history = Lists(rollout.history)
    plan = Sends(ramp.show_plan)
    set_plan = Sends(ramp.set_plan)
    clear_plan = Sends(ramp.clear_plan)
    start = Sends(ramp.start)
    pause = Sends(ramp.pause)
    resume = Sends(ramp.resume)
    approve = Sends(ramp.approve)
    promote = Sends(ramp.promote)
    abort = Sends(ramp.abort)
    status = Sends(ramp.status)
    analysis = Sends(ramp.analysis)
    decisions = Lists(ramp.decisions)
    trace = Sends(ramp.trace)


class PoolMethods:
    """The pools and their workers."""

    get = Sends(pools.show)
    list = Sends(pools.listed)
    reload = Sends(pools.reload)
    reload_all = Sends(pools.reload_all)
    diff = Sends(pools.diff)


class MigrationMethods:
    """The migration from V1 to V2."""

    get = Sends(migration.show)
    report = Sends(migration.report)
    add_validation = Sends(migration.add_validation)
    tick = Sends(migration.tick)
    untick = Sends(migration.untick)


class ShadowMethods:
    """Shadow calls, and what differs in them."""

    get = Sends(shadow.show)
    get_program = Sends(shadow.show_program)
    compare = Sends(shadow.compare)


class ClientMethods:
    """Calls, and the health of the service."""

    execute = Sends(executions.execute)
    stream = Streams(executions.stream)
    batch = Sends(executions.batch)
    failures = Sends(failures.newest)
    health = Sends(pools.health)
    readiness = Sends(pools.readiness)
    metrics = Sends(pools.metrics)
