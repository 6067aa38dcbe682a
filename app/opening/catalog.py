"""Opens the catalogue: programs, sessions, jobs, idempotency keys and LMs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.local_lm.process import LocalLMServer
from app.opening.opening import Opening
from config.settings import Settings
from poolshift.worker.lm import LMSettings
from routing.catalog.bookkeeping import Bookkeeping
from routing.catalog.deleted_programs import DeletedPrograms
from routing.catalog.idempotency import IdempotencyKeys
from routing.catalog.jobs import Jobs
from routing.catalog.lm_costs import LMCosts
from routing.catalog.lms import LMs
from routing.catalog.programs import Programs
from routing.catalog.quotas import Quotas
from routing.catalog.sessions import Sessions
from routing.rollout.flag import RolloutFlag
from routing.versions import Version
from store.database import Database
from store.deleted_program_store import SqlDeletedProgramStore
from store.job_store import SqlJobStore
from store.key_store import SqlKeyStore
from store.lm_store import SqlLMStore
from store.program_store import SqlProgramStore
from store.rotation_store import SqlRotationStore
from store.secret_box import SecretBox
from store.session_store import SqlSessionStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Programs, sessions, jobs, idempotency keys and LMs: kept in memory, written behind."""

    programs: Programs
    deleted_programs: DeletedPrograms
    sessions: Sessions
    jobs: Jobs
    keys: IdempotencyKeys
    lms: LMs
    costs: LMCosts
    rotations: SqlRotationStore

    def bookkeeping(self, opening: Opening, flag: RolloutFlag) -> Bookkeeping:
        """Makes the work in the background that all of it needs."""
        bookkeeping = Bookkeeping(
            self.programs, self.deleted_programs, self.sessions, self.jobs, self.keys, flag, opening.background
        )
        opening.at_end(bookkeeping.aclose)
        return bookkeeping

    async def reload(self) -> None:
        """Reads everything again, after this replica has missed changes by others."""
        await self.programs.load()
        await self.sessions.load()
        await self.lms.load()


async def open_catalog(
    opening: Opening, database: Database, local_lm: LocalLMServer | None, secret_keys: Sequence[bytes] | None
) -> Catalog:
    """Loads programs, sessions, jobs and LMs, as the last run or the other replicas left them."""
    settings, is_shared = opening.settings, database.is_shared
    at_once = settings.queue_limit + settings.pool("v1").pool_size + settings.pool("v2").pool_size
    quotas = _quotas(settings, at_once)
    programs = Programs(
        SqlProgramStore(database, grace_s=settings.program_grace_s),
        is_shared=is_shared,
        quotas=quotas,
        metrics=opening.recorder.programs,
    )
    await programs.load()
    sessions = Sessions(
        SqlSessionStore(database), programs, ttl_s=settings.session_ttl_s, is_shared=is_shared, quotas=quotas
    )
    await sessions.load()
    job_store = SqlJobStore(database, key_ttl_s=settings.idempotency_ttl_s)
    jobs = Jobs(job_store, limit=at_once, ttl_s=settings.execution_ttl_s, quotas=quotas)
    others_run = _others_run(opening, database)
    await jobs.open(others_run=others_run)
    opening.at_end(jobs.aclose)
    keys = IdempotencyKeys(SqlKeyStore(database), ttl_s=settings.idempotency_ttl_s, quotas=quotas)
    await keys.open(others_run=others_run)
    opening.at_end(keys.aclose)
    opening.let_others_start()
    lm_store = SqlLMStore(database, SecretBox(secret_keys) if secret_keys is not None else None)
    costs = LMCosts(settings.prices)
    lms = LMs(
        lm_store,
        _configured_lm(settings, None),
        local_lm.endpoint if local_lm else None,
        {version: _configured_lm(settings, version) for version in Version if settings.has_lm_of(version.value)},
        costs.load,
    )
    await lms.load()
    await lm_store.seal()
    sessions.listen(jobs.end_session)
    sessions.listen(lms.forget_session)
    rotations = SqlRotationStore(database, lm_store)
    deleted = DeletedPrograms(programs, SqlDeletedProgramStore(database), settings.program_grace_s)
    return Catalog(
        programs=programs,
        deleted_programs=deleted,
        sessions=sessions,
        jobs=jobs,
        keys=keys,
        lms=lms,
        costs=costs,
        rotations=rotations,
    )


def _others_run(opening: Opening, database: Database) -> bool:
    """Tells if another replica may use the database. The first one of a machine has a SQLite file alone."""
    replica = opening.replica
    is_first = replica is not None and not database.is_postgresql and replica.is_first
    return database.is_shared and not is_first


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
