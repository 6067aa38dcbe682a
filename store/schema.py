"""The database's schema: brings it up to date, and notes which release has."""

from importlib.metadata import version
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, insert, inspect, select

from store.tables import schema_releases

RELEASE: Final = version("poolshift-service")


class NewerSchema(Exception):
    """A newer release has migrated the database; the message says which release to take."""


def upgrade(connection: Connection) -> None:
    """Brings the schema up to date.

    Raises:
        NewerSchema: this release does not know the schema.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    known = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    head = known.get_current_head() or ""
    if found is not None and all(one.revision != found for one in known.walk_revisions()):
        raise NewerSchema(_way_out(connection, found, head))
    command.upgrade(config, "head")
    _note_release(connection, head)


def _way_out(connection: Connection, found: str, head: str) -> str:
    release = None
    if inspect(connection).has_table(schema_releases.name):
        query = select(schema_releases.c.release).where(schema_releases.c.revision == found)
        release = connection.execute(query).scalar_one_or_none()
    taken = "the release that migrated it" if release is None else f"release {release}, which migrated it"
    return (
        f"its schema {found} is of a newer release than this one, {RELEASE}, which knows schemas up to {head}: "
        f"start {taken}, or a newer one, or a copy of the database from before"
    )


def _note_release(connection: Connection, head: str) -> None:
    """Notes the first release that has brought the database here: an older one names it."""
    noted = select(schema_releases.c.release).where(schema_releases.c.revision == head)
    if connection.execute(noted).first() is None:
        values = {"revision": head, "release": RELEASE, "at": func.current_timestamp()}
        connection.execute(insert(schema_releases).values(values))
