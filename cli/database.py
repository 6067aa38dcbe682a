"""`poolshift db`: the database itself, without a service."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.errors import CommandFailed, ExitCode
from cli.migrate import migrate, on_database
from cli.output import AsJson, print_fields, print_json

if TYPE_CHECKING:
    from config.settings import Settings
    from store.database import Database
    from store.lm_store import SqlLMStore

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Works on the database, without a service.")
app.command("upgrade")(migrate)
_Done = TypeVar("_Done")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy to write; there is no such file yet.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Copies the SQLite database while the service runs, and checks the copy."""
    from store.sqlite.backup import check_database, copy_database  # noqa: PLC0415

    path = _sqlite_path(f"pg_dump --format=custom --file={file}")
    _done(lambda: copy_database(path, file))
    revision = _done(lambda: check_database(file))
    _print({"copy": str(file), "schema": revision, "bytes": str(file.stat().st_size)}, as_json=as_json)


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="A copy; without it, the database itself.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Reads a whole SQLite database, or a copy of it, and says if it is sound; the service may run."""
    from store.sqlite.backup import check_database  # noqa: PLC0415

    path = file or _sqlite_path("pg_amcheck")
    _print({"sound": str(path), "schema": _done(lambda: check_database(path))}, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A copy that `poolshift db backup` has written.")],
    *,
    is_sure: Annotated[bool, typer.Option("--yes", help="Restores it; without it, the command only checks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Gives the SQLite database the content of a copy. Stop the service first.

    What the database had before is kept in a file beside it, which the answer names: restoring that is the way back.
    """
    from store.sqlite.backup import check_database, restore_database  # noqa: PLC0415

    path = _sqlite_path(f"pg_restore --clean --if-exists --single-transaction {file}")
    revision = _done(lambda: check_database(file))
    if not is_sure:
        raise CommandFailed(ExitCode.REFUSED, f"{file} would take the place of all that {path} has (--yes restores it)")
    before = _done(lambda: restore_database(file, path))
    _print(
        {"restored": str(path), "schema": revision, "before": "nothing" if before is None else str(before)},
        as_json=as_json,
    )


def _print(fields: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)


def _sqlite_path(in_postgresql: str) -> Path:
    """The file of the SQLite database that the environment names; of PostgreSQL, its own tool is named instead."""
    from config.settings import InvalidSettings, load_settings  # noqa: PLC0415
    from store.database import sqlite_file  # noqa: PLC0415

    try:
        path = _done(lambda: sqlite_file(load_settings().database_url.get_secret_value()))
    except InvalidSettings as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None
    if path is None:
        raise CommandFailed(ExitCode.USAGE, f"DATABASE_URL names no SQLite file; PostgreSQL has `{in_postgresql}`")
    return path


def _done(work: Callable[[], _Done]) -> _Done:
    from routing.errors import StoreUnavailable  # noqa: PLC0415
    from store.sqlite.backup import UnusableCopy  # noqa: PLC0415

    try:
        return work()
    except UnusableCopy as error:
        raise CommandFailed(ExitCode.REFUSED, str(error)) from None
    except FileExistsError as error:
        raise CommandFailed(ExitCode.CONFLICT, f"{error.filename} is there already") from None
    except (StoreUnavailable, OSError, sqlite3.Error) as error:
        raise CommandFailed(ExitCode.UNREACHABLE, str(error)) from None


@app.command("forget-lm-keys")
def forget_lm_keys(
    *,
    is_sure: Annotated[bool, typer.Option("--yes", help="Forgets them; without it, the command names them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forgets the keys of language models that no key of `SECRET_KEY_FILE` decrypts: the way out if that is lost.

    Stop the service first. The models' other settings stay; set the keys again with `poolshift lm set`. Keys that can
    be decrypted stay. Nothing brings the others back but the lost file and a copy of the database from before.
    """

    async def work(database: "Database", settings: "Settings") -> list[str]:
        store = _store(database, settings)
        return [_whose(*one) for one in await (store.forget_lost() if is_sure else store.lost())]

    lost = on_database(work)
    if lost and not is_sure:
        raise CommandFailed(
            ExitCode.REFUSED,
            f"the keys of these language models would be forgotten: {', '.join(lost)} (--yes forgets them; "
            "with the lost file in SECRET_KEY_FILE they can be read again)",
        )
    if as_json:
        print_json({"forgotten": lost})
    else:
        print_fields({"forgotten": ", ".join(lost) or "nothing: every key can be decrypted"})


def _store(database: "Database", settings: "Settings") -> "SqlLMStore":
    from config.secret_key import read_secret_keys  # noqa: PLC0415
    from store.lm_store import SqlLMStore  # noqa: PLC0415
    from store.secret_box import SecretBox  # noqa: PLC0415

    path = settings.secret_key_file
    return SqlLMStore(database, None if path is None else SecretBox(read_secret_keys(path)))


def _whose(session_id: str | None, version: str | None) -> str:
    """Names the holder of a language model."""
    if session_id is not None:
        return f"that of the session {session_id!r}"
    return "everyone's" if version is None else f"{version}'s"
