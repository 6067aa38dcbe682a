"""`poolshift migrate`, another name of `poolshift db upgrade`: brings the schema up to date before a service starts."""

import asyncio

import typer

from cli.errors import CommandFailed, ExitCode

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def migrate() -> None:
    """Updates the database's schema, as `serve` does, for a role that may alter tables."""
    # Imported here, since the help of all commands does without a database.
    from app.logs import configure_logs  # noqa: PLC0415
    from config.settings import InvalidSettings, load_settings  # noqa: PLC0415
    from routing.errors import StoreUnavailable  # noqa: PLC0415

    try:
        settings = load_settings()
        configure_logs(settings.log_format)
        asyncio.run(_migrate(settings.database_url.get_secret_value()))
    except InvalidSettings as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None
    except StoreUnavailable as error:
        raise CommandFailed(ExitCode.UNREACHABLE, str(error)) from None


async def _migrate(url: str) -> None:
    from store.database import Database  # noqa: PLC0415

    database = Database(url)
    try:
        await database.migrate()
    finally:
        await database.aclose()
