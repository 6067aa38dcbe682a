"""`poolshift migrate`, another name of `poolshift db upgrade`: brings the schema up to date before a service starts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from cli.errors import CommandFailed, ExitCode

if TYPE_CHECKING:
    from config.settings import Settings
    from store.database import Database

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_Done = TypeVar("_Done")


@app.command()
def migrate() -> None:
    """Updates the database's schema, as `serve` does, for a role that may alter tables."""
    on_database(_nothing_more)


def on_database(work: "Callable[[Database, Settings], Awaitable[_Done]]") -> _Done:
    """Opens the database that the environment names, updates its schema, and does `work` on it."""
    # Imported here, since the help of all commands does without a database.
    from app.logs import configure_logs  # noqa: PLC0415
    from config.secret_key import InvalidSecretKey  # noqa: PLC0415
    from config.settings import InvalidSettings, load_settings  # noqa: PLC0415
    from routing.errors import StoreUnavailable  # noqa: PLC0415

    try:
        settings = load_settings()
        configure_logs(settings.log_format)
        return asyncio.run(_run(settings, work))
    except InvalidSettings as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None
    except InvalidSecretKey as error:
        raise CommandFailed(ExitCode.USAGE, f"SECRET_KEY_FILE={error}") from None
    except StoreUnavailable as error:
        raise CommandFailed(ExitCode.UNREACHABLE, str(error)) from None


async def _run(settings: "Settings", work: "Callable[[Database, Settings], Awaitable[_Done]]") -> _Done:
    from store.database import Database  # noqa: PLC0415

    database = Database(settings.database_url.get_secret_value())
    try:
        await database.migrate()
        return await work(database, settings)
    finally:
        await database.aclose()


async def _nothing_more(_: "Database", __: "Settings") -> None:
    """The schema is all."""
