"""LM settings in the database. Their keys are encrypted if the service has a `SECRET_KEY_FILE`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Column, Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from poolshift.worker.lm import LMSettings
from routing.catalog.lms import EVERYONE, Holder, StoredLM
from routing.errors import FormerLMMissing, StoreUnavailable
from routing.versions import Version
from store.database import Database
from store.secret_box import CannotDecrypt, SecretBox
from store.tables import GLOBAL, former_lms, lms

_OF_VERSION = "@"
"""Stands before a version in the column of the session's id. No id begins so: a replica that knows no LMs of versions
takes the row for that of a session which never calls."""
_SETTINGS = ("model", "api_base", "api_key", "sealed_api_key", "temperature", "max_tokens")
"""The columns that the present and the former settings share."""
_log = structlog.stdlib.get_logger("poolshift.store")


class SqlLMStore:
    """Implements `routing.catalog.lms.LMStore`."""

    def __init__(self, database: Database, box: SecretBox | None = None) -> None:
        self._database = database
        self._box = box

    async def load(self) -> Sequence[StoredLM]:
        async with self._database.transaction() as connection:
            rows = (await connection.execute(select(lms))).all()
        try:
            return [self._stored(row, self._api_key(row)) for row in rows]
        except CannotDecrypt:
            raise StoreUnavailable("SECRET_KEY_FILE has no key that decrypts the keys of LMs in the database") from None

    async def seal(self) -> None:
        """Encrypts every stored key with the newest key; without one, warns that they lie in the clear.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        async with self._database.transaction() as connection:
            for column in (lms.c.session_id, former_lms.c.holder):
                for row in (await connection.execute(select(column.table))).all():
                    if self._box is None and row.api_key is not None:
                        _log.warning("LM keys lie in the database in the clear; SECRET_KEY_FILE encrypts them")
                        return
                    if self._box is not None and self._is_to_be_sealed(row, self._box):
                        await self._seal(connection, column, row)

    async def _seal(self, connection: AsyncConnection, column: Column[str], row: Row[Any]) -> None:
        try:
            values = self._key_columns(self._api_key(row))
        except CannotDecrypt:
            return  # of a former LM, which cannot be restored then
        await connection.execute(update(column.table).where(column == row._mapping[column.name]).values(values))

    async def find(self, holder: Holder) -> StoredLM | None:
        query = select(lms).where(lms.c.session_id == lm_reference(holder))
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        try:
            return self._stored(row, self._api_key(row))
        except CannotDecrypt:
            _log.error("the key of an LM cannot be decrypted; its calls go without", holder=row.session_id)
            return self._stored(row, None)

    async def put(self, holder: Holder, settings: LMSettings, overrides: str | None, by: str) -> StoredLM:
        async with self._database.transaction() as connection:
            stored = await self.replace(connection, holder, settings, overrides, by)
            await self._database.announce(connection, "lm", lm_reference(holder))
        return stored

    async def replace(
        self, connection: AsyncConnection, holder: Holder, settings: LMSettings, overrides: str | None, by: str
    ) -> StoredLM:
        """Keeps `settings` in place of the earlier ones, in a transaction that its owner ends and announces."""
        if holder.session_id is None:
            await self._keep_former(connection, holder, overrides, by, settings)
        values = {
            "session_id": lm_reference(holder),
            "model": settings.model,
            "api_base": settings.api_base,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "overrides": overrides,
            "updated_by": by,
            "updated_at": datetime.now(UTC),
            **self._key_columns(settings.api_key),
        }
        await connection.execute(delete(lms).where(lms.c.session_id == values["session_id"]))
        row = (await connection.execute(insert(lms).values(values).returning(lms))).one()
        return self._stored(row, settings.api_key)

    async def remove(self, holder: Holder, overrides: str | None, by: str) -> None:
        async with self._database.transaction() as connection:
            if holder.session_id is None:
                await self._keep_former(connection, holder, overrides, by, None)
            await connection.execute(delete(lms).where(lms.c.session_id == lm_reference(holder)))
            await self._database.announce(connection, "lm", lm_reference(holder))

    async def restore(self, holder: Holder, overrides: str | None, by: str) -> StoredLM | None:
        reference = lm_reference(holder)
        of_holder = former_lms.c.holder == reference
        async with self._database.transaction() as connection:
            former = (await connection.execute(select(former_lms).where(of_holder).with_for_update())).one_or_none()
            if former is None:
                whose = "everyone's" if holder == EVERYONE else f"{holder.version}'s"
                raise FormerLMMissing(f"no former language model is kept: {whose} has not been changed")
            await self._keep_former(connection, holder, overrides, by, None, is_exchange=True)
            await connection.execute(delete(lms).where(lms.c.session_id == reference))
            stored = await self._put_back(connection, former, overrides, by)
            await self._database.announce(connection, "lm", reference)
        return stored

    async def _put_back(
        self, connection: AsyncConnection, former: Row[Any], overrides: str | None, by: str
    ) -> StoredLM | None:
        """Stores former settings as those in force; the environment's are none of the store's."""
        if former.model is None:
            return None
        values = {name: former._mapping[name] for name in _SETTINGS}
        now = datetime.now(UTC)
        values |= {"session_id": former.holder, "overrides": overrides, "updated_by": by, "updated_at": now}
        row = (await connection.execute(insert(lms).values(values).returning(lms))).one()
        try:
            return self._stored(row, self._api_key(row))
        except CannotDecrypt:
            reason = "SECRET_KEY_FILE has no key that decrypts the key of the former language model: set it again"
            raise FormerLMMissing(reason) from None

    async def _keep_former(
        self,
        connection: AsyncConnection,
        holder: Holder,
        overrides: str | None,
        by: str,
        replacement: LMSettings | None,
        *,
        is_exchange: bool = False,
    ) -> None:
        """Keeps the settings in force as the former ones, unless the replacement says the same once more."""
        reference = lm_reference(holder)
        found = (await connection.execute(select(lms).where(lms.c.session_id == reference))).one_or_none()
        row = found if found is not None and found.overrides == overrides else None  # else the environment's count
        if not is_exchange and self._are_in_force(row, replacement):
            return
        settings = dict.fromkeys(_SETTINGS) if row is None else {name: row._mapping[name] for name in _SETTINGS}
        values = {"holder": reference, **settings, "replaced_by": by, "replaced_at": datetime.now(UTC)}
        await connection.execute(delete(former_lms).where(former_lms.c.holder == reference))
        await connection.execute(insert(former_lms).values(values))

    def _are_in_force(self, row: Row[Any] | None, settings: LMSettings | None) -> bool:
        """Tells if settings, or the environment's if these are None, are those of a row: a change was sent twice."""
        if row is None or settings is None:
            return row is None and settings is None
        try:
            return self._stored(row, self._api_key(row)).settings == settings
        except CannotDecrypt:
            return False

    def _key_columns(self, api_key: str | None) -> Mapping[str, str | None]:
        """The columns in which an LM's key is kept."""
        if api_key is None or self._box is None:
            return {"api_key": api_key, "sealed_api_key": None}
        return {"api_key": None, "sealed_api_key": self._box.encrypt(api_key)}

    def _api_key(self, row: Row[Any]) -> str | None:
        if row.sealed_api_key is None:
            return row.api_key  # type: ignore[no-any-return]
        if self._box is None:
            raise CannotDecrypt
        return self._box.decrypt(row.sealed_api_key)

    @staticmethod
    def _is_to_be_sealed(row: Row[Any], box: SecretBox) -> bool:
        return row.api_key is not None or (row.sealed_api_key is not None and not box.is_newest(row.sealed_api_key))

    @staticmethod
    def _stored(row: Row[Any], api_key: str | None) -> StoredLM:
        return StoredLM(
            holder=lm_holder(row.session_id),
            settings=LMSettings(row.model, row.api_base, api_key, row.temperature, row.max_tokens),
            overrides=row.overrides,
            updated_by=row.updated_by,
            updated_at=row.updated_at,
        )


def lm_reference(holder: Holder) -> str:
    """Names the holder of an LM in the database, and to the other replicas."""
    if holder.version is not None:
        return _OF_VERSION + holder.version
    return GLOBAL if holder.session_id is None else holder.session_id


def lm_holder(reference: str) -> Holder:
    """Returns the holder that `lm_reference` has named."""
    if reference == GLOBAL:
        return EVERYONE
    if reference.startswith(_OF_VERSION):
        return Holder(version=Version(reference.removeprefix(_OF_VERSION)))
    return Holder(reference)
