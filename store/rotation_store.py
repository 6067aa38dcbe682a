"""A rotation in the database: one transaction for all that V1 gets from V2."""

from sqlalchemy.exc import IntegrityError

from routing.catalog.lms import NewLM
from routing.rollout.model import Change, Rollout
from routing.rotation import Rotated
from store.database import Database
from store.lm_store import SqlLMStore, lm_reference
from store.program_store import SqlProgramStore, reference
from store.rollout_log import SqlRolloutLog, insert_revision

ROTATION_TIMEOUT_S = 60.0
"""The most seconds that the transaction may take: V2 may have thousands of definitions of its own."""


class SqlRotationStore:
    """Implements `routing.rotation.RotationStore`."""

    def __init__(self, database: Database, lms: SqlLMStore) -> None:
        self._database = database
        self._log = SqlRolloutLog(database)
        self._lms = lms

    async def newest(self) -> Rollout | None:
        return await self._log.rotation()

    async def rotate(self, change: Change, *, after: int, lm: NewLM | None) -> Rotated:
        try:
            async with self._database.transaction(ROTATION_TIMEOUT_S) as connection:
                promoted = await SqlProgramStore.promote_all_v2(connection, change.by)
                stored_lm = None if lm is None else await self._lms.replace(connection, *lm, change.by)
                rollout = await insert_revision(connection, change, after)
                # The replicas are told last: whoever tells them waits for all others that do, and must hold no row that
                # one of those needs.
                for program in promoted:
                    ref = reference(program.program.id, program.session_id)
                    await self._database.announce(connection, "program", ref)
                if stored_lm is not None:
                    await self._database.announce(connection, "lm", lm_reference(stored_lm.holder))
                await self._database.announce(connection, "rollout", str(rollout.revision))
        except IntegrityError:
            raise await self._log.overtaken() from None
        return Rotated(rollout, promoted, stored_lm)
