"""Secrets that the service makes for itself at its first start, and that all replicas share."""

import secrets

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from store.database import Database
from store.tables import service_secrets

_BYTES = 32


async def shared_secret(database: Database, name: str) -> bytes:
    """Reads a secret by its name; makes it if there is none yet. Raises StoreUnavailable."""
    query = select(service_secrets.c.value).where(service_secrets.c.name == name)
    while True:
        async with database.reading() as connection:
            found: bytes | None = (await connection.execute(query)).scalar_one_or_none()
        if found is not None:
            return found
        try:
            async with database.transaction() as connection:
                values = {"name": name, "value": secrets.token_bytes(_BYTES)}
                await connection.execute(insert(service_secrets).values(values))
        except IntegrityError:
            continue  # another replica has just made it
