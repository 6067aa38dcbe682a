"""LM settings in the database. Their keys are encrypted if the service has a `SECRET_KEY_FILE`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Column, Row, delete, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from poolshift.worker.lm import LMSettings
from routing.catalog.lms import EVERYONE, Holder, StoredLM
from routing.errors import FormerLMMissing, StoreUnavailable
from routing.versions import Version
from store.clock import moment
from store.database import Database
from store.secret_box import CannotDecrypt, SecretBox
from store.tables import GLOBAL, former_lms, lms

_OF_VERSION = "@"
"""Stands before a version in the column of the session's id. No id begins so: a replica that knows no LMs of versions
takes the row for that of a session which never calls."""
_FORMER = "!v1"
"""Stands in that column for the LM that V1 had before a rotation. No id begins so."""
_OF_V1 = _OF_VERSION + Version.V1
_SETTINGS = ("model", "api_base", "api_key", "sealed_api_key", "temperature", "max_tokens")
"""The columns that the present and the former settings share."""
_log = structlog.stdlib.get_logger("poolshift.store")


class SqlLMStore:
    """Implements `routing.catalog.lms.LMStore`."""

    def __init__(self, database: Database, box: SecretBox | None = None) -> None:
        self._database = database
        self._box = box

    async def load(self) -> Sequence[StoredLM]:
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(lms).where(lms.c.session_id != _FORMER))).all()
        try:
            return [self._stored(row, self._api_key(row)) for row in rows]
        except CannotDecrypt:
            raise StoreUnavailable(
                "SECRET_KEY_FILE has no key that decrypts the keys of LMs in the database: put the file back that has "
                "it, or give those keys up with `poolshift db forget-lm-keys` and set them again"
            ) from None

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

    async def lost(self) -> Sequence[Holder]:
        """The holders of LMs whose keys cannot be decrypted."""
        async with self._database.reading() as connection:
            return [lm_holder(row.session_id) for row in await self._rows(connection) if self._is_lost(row)]

    async def forget_lost(self) -> Sequence[Holder]:
        """Forgets the keys that cannot be decrypted; their LMs stay, and their calls go without. Returns the holders.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        async with self._database.transaction() as connection:
            references = [row.session_id for row in await self._rows(connection) if self._is_lost(row)]
            for reference in references:
                change = update(lms).where(lms.c.session_id == reference).values(sealed_api_key=None)
                await connection.execute(change)
                await self._database.announce(connection, "lm", reference)
        return [lm_holder(reference) for reference in references]

    async def find(self, holder: Holder) -> StoredLM | None:
        query = select(lms).where(lms.c.session_id == lm_reference(holder))
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else self._readable(row)

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
            "updated_at": moment(connection),
            **self._key_columns(settings.api_key),
        }
        await connection.execute(delete(lms).where(lms.c.session_id == values["session_id"]))
        row = (await connection.execute(insert(lms).values(values).returning(lms))).one()
        return self._stored(row, settings.api_key)

    @staticmethod
    async def keep_v1(connection: AsyncConnection) -> None:
        """Keeps V1's LM for `put_back_v1`, key and all, in place of what was kept before."""
        await connection.execute(delete(lms).where(lms.c.session_id == _FORMER))
        columns = [column for column in lms.c if column is not lms.c.session_id]
        of_v1 = select(literal(_FORMER), *columns).where(lms.c.session_id == _OF_V1)
        await connection.execute(insert(lms).from_select(["session_id", *(column.name for column in columns)], of_v1))

    @staticmethod
    async def v1_set_at(connection: AsyncConnection) -> datetime | None:
        """Tells when V1's own LM was set; None if V1 has none of its own."""
        query = select(lms.c.updated_at).where(lms.c.session_id == _OF_V1)
        set_at: datetime | None = (await connection.execute(query)).scalar_one_or_none()
        return set_at

    async def put_back_v1(self, connection: AsyncConnection) -> StoredLM | None:
        """Gives V1 the LM that `keep_v1` kept; returns None if V1 had none of its own."""
        await connection.execute(delete(lms).where(lms.c.session_id == _OF_V1))
        back = update(lms).where(lms.c.session_id == _FORMER).values(session_id=_OF_V1).returning(lms)
        row = (await connection.execute(back)).one_or_none()
        return None if row is None else self._readable(row)

    async def accept(self, holder: Holder, overrides: str | None) -> None:
        change = update(lms).where(lms.c.session_id == lm_reference(holder)).values(overrides=overrides)
        async with self._database.transaction() as connection:
            await connection.execute(change)
            await self._database.announce(connection, "lm", lm_reference(holder))

    async def remove(self, holder: Holder, overrides: str | None, by: str) -> None:
        async with self._database.transaction() as connection:
            if holder.session_id is None:
                await self._keep_former(connection, holder, overrides, by, None)
            await connection.execute(delete(lms).where(lms.c.session_id == lm_reference(holder)))
            await self._database.announce(connection, "lm", lm_reference(holder))

    def _readable(self, row: Row[Any]) -> StoredLM:
        """Reads a row, without its key if that cannot be decrypted."""
        try:
            return self._stored(row, self._api_key(row))
        except CannotDecrypt:
            _log.error("the key of an LM cannot be decrypted; its calls go without", holder=row.session_id)
            return self._stored(row, None)

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
        now = moment(connection)
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
        values = {"holder": reference, **settings, "replaced_by": by, "replaced_at": moment(connection)}
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
    async def _rows(connection: AsyncConnection) -> Sequence[Row[Any]]:
        return (await connection.execute(select(lms).order_by(lms.c.session_id))).all()

    def _is_lost(self, row: Row[Any]) -> bool:
        try:
            self._api_key(row)
        except CannotDecrypt:
            return True
        return False

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
