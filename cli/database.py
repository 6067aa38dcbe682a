"""`poolshift db`: the database itself, without a service."""

from typing import TYPE_CHECKING, Annotated

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
