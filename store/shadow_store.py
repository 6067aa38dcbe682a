"""The evidence of shadow calls and scores in the database."""

from collections.abc import Mapping
from datetime import timedelta

import msgspec
from sqlalchemy import delete, insert, select, update

from routing.shadow.figures import Snapshot
from store.clock import moment
from store.database import Database
from store.tables import shadow_evidence

KEPT_FOR = timedelta(days=30)
"""The time for which the evidence of replicas that have died is kept."""
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class SqlEvidenceStore:
    """Implements `routing.shadow.evidence_store.EvidenceStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, generation: str, replica: str, snapshot: Snapshot) -> None:
        table = shadow_evidence
        mine = table.c.replica == replica
        async with self._database.transaction() as connection:
            values = {"data": _encode(snapshot).decode(), "at": moment(connection)}
            written = await connection.execute(
                update(table).where(mine, table.c.generation == generation).values(values)
            )
            if not written.rowcount:
                is_old = table.c.at < moment(connection, -KEPT_FOR.total_seconds())
                await connection.execute(delete(table).where(mine | is_old))
                row = {"generation": generation, "replica": replica, **values}
                await connection.execute(insert(table).values(row))

    async def all(self, generation: str) -> Mapping[str, Snapshot]:
        query = select(shadow_evidence).where(shadow_evidence.c.generation == generation)
        async with self._database.reading() as connection:
            return {row.replica: _decode(row.data) for row in await connection.execute(query)}
