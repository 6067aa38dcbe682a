"""A rotation in the database: one transaction for all that V1 gets from V2, and one for the way back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, literal, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from poolshift.worker.definitions import Definition
from routing.catalog.definitions import decode_definition
from routing.catalog.lms import Holder, NewLM
from routing.rollout.model import Change, Rollout
from routing.rotation.store import FORGOTTEN, Former, LastRotation, Rotated, TakenBack
from routing.rotation.trial import End
from routing.versions import Version
from store.database import Database
from store.lm_store import SqlLMStore, lm_reference
from store.program_store import SqlProgramStore, reference
from store.rollout_log import SqlRolloutLog, insert_revision
from store.tables import programs, rotated_programs, rotations
from store.trial_store import end_trial

ROTATION_TIMEOUT_S = 60.0
"""The most seconds that the transaction may take: V2 may have thousands of definitions of its own."""
_V1 = Holder(version=Version.V1)


class _Kept(msgspec.Struct, kw_only=True):
    """The row of a rotation, as JSON."""

    spec: dict[str, Any]
    code: str | None = None
    tried: str | None = None
    lm_at: datetime | None = None
    """The time at which the rotation has set V1's LM; None if it has not."""


class SqlRotationStore:
    """Implements `routing.rotation.store.RotationStore`."""

    def __init__(self, database: Database, lms: SqlLMStore) -> None:
        self._database = database
        self._log = SqlRolloutLog(database)
        self._lms = lms

    async def newest(self) -> Rollout | None:
        return await self._log.rotation()

    async def last(self) -> LastRotation | None:
        rollout = await self._log.rotation()
        if rollout is None:
            return None
        async with self._database.reading() as connection:
            kept = await _kept(connection, rollout.revision)
        former = None if kept is None else Former(kept.spec, kept.code, kept.tried)
        is_forgotten = await self._log.last_seen(FORGOTTEN) == str(rollout.revision)
        return LastRotation(rollout, former, is_forgotten)

    async def former_definitions(self, rotation: int) -> Mapping[str, Definition]:
        is_as_rotated = func.coalesce(programs.c.revision, 1) == rotated_programs.c.revision
        joined = programs.join(rotated_programs, programs.c.key == rotated_programs.c.program_key)
        query = select(rotated_programs.c.program_key, rotated_programs.c.definition).select_from(joined)
        async with self._database.reading() as connection:
            rows = await connection.execute(query.where(rotated_programs.c.rotation == rotation, is_as_rotated))
            return {str(row.program_key): decode_definition(row.definition) for row in rows}

    async def rotate(self, change: Change, *, after: int, lm: NewLM | None, former: Former) -> Rotated:
        try:
            async with self._database.transaction(ROTATION_TIMEOUT_S) as connection:
                await _keep_definitions(connection, rotation=after + 1)
                promoted = await SqlProgramStore.promote_all_v2(connection, change.by)
                await self._lms.keep_v1(connection)
                stored_lm = None if lm is None else await self._lms.replace(connection, *lm, change.by)
                rollout = await insert_revision(connection, change, after)
                kept = _Kept(spec=dict(former.spec), code=former.code, tried=former.tried)
                kept.lm_at = None if stored_lm is None else stored_lm.updated_at
                await _keep(connection, rollout.revision, kept)
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

    async def take_back(self, change: Change, *, after: int, rotation: int, end: End) -> TakenBack:
        try:
            async with self._database.transaction(ROTATION_TIMEOUT_S) as connection:
                kept = await _kept(connection, rotation)
                changed, kept_ids = await SqlProgramStore.take_back_rotated(connection, rotation, change.by)
                lm_at = None if kept is None else kept.lm_at
                is_as_rotated = lm_at is not None and await self._lms.v1_set_at(connection) == lm_at
                lm = await self._lms.put_back_v1(connection) if is_as_rotated else None
                rollout = await insert_revision(connection, change, after)
                await _forget(connection)
                if kept is not None and kept.tried is not None:
                    await end_trial(connection, kept.tried, end)
                for program in changed:
                    ref = reference(program.program.id, program.session_id)
                    await self._database.announce(connection, "program", ref)
                if is_as_rotated:
                    await self._database.announce(connection, "lm", lm_reference(_V1))
                await self._database.announce(connection, "rollout", str(rollout.revision))
        except IntegrityError:
            raise await self._log.overtaken() from None
        return TakenBack(rollout, changed, kept_ids, is_as_rotated, lm, lm_at is not None and not is_as_rotated)


async def _kept(connection: AsyncConnection, rotation: int) -> _Kept | None:
    query = select(rotations.c.former).where(rotations.c.revision == rotation)
    former = (await connection.execute(query)).scalar_one_or_none()
    return None if former is None else msgspec.json.decode(former, type=_Kept)


async def _keep(connection: AsyncConnection, rotation: int, kept: _Kept) -> None:
    """Keeps what V1 was. There is a way back from the newest rotation alone."""
    await connection.execute(delete(rotations))
    former = msgspec.json.encode(kept).decode()
    await connection.execute(insert(rotations).values(revision=rotation, former=former))


async def _keep_definitions(connection: AsyncConnection, *, rotation: int) -> None:
    """Keeps V1's definitions of the programs that are promoted next, in place of those of an older rotation."""
    await connection.execute(delete(rotated_programs))
    has_own = programs.c.v2_definition.is_not(None)
    await connection.execute(select(programs.c.key).where(has_own).order_by(programs.c.key).with_for_update())
    promoted_to = func.coalesce(programs.c.revision, 1) + 1
    former = select(programs.c.key, literal(rotation), promoted_to, programs.c.definition).where(has_own)
    columns = ["program_key", "rotation", "revision", "definition"]
    await connection.execute(insert(rotated_programs).from_select(columns, former))


async def _forget(connection: AsyncConnection) -> None:
    for table in (rotated_programs, rotations):
        await connection.execute(delete(table))
