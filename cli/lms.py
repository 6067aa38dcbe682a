"""`poolshift lm`: shows and sets the language model of everyone, or of a session."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.errors import CommandFailed, Refused
from cli.output import AsJson, print_fields, print_json, when
from cli.service import Service, key_of_file, on_service
from poolshift.client import sessions

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Shows and sets the language model.")

Session = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="A session; without it the language model of everyone.")
]


Version = Annotated[
    Literal["v1", "v2"] | None, typer.Option(help="A version, instead of a session (scope admin to change it).")
]


@app.command("get")
@on_service
def get_lm(service: Service, *, session: Session = None, pool_version: Version = None, as_json: AsJson = False) -> None:
    """Shows the language model in force; never its key."""
    _show(service.ask(sessions.show_lm(session, pool_version=pool_version)), as_json=as_json)


@app.command("set")
@on_service
def set_lm(
    service: Service,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As openai/gpt-5-mini; local, or none.")],
    *,
    session: Session = None,
    pool_version: Version = None,
    api_base: Annotated[str | None, typer.Option(metavar="URL", help="Address of the model's API.")] = None,
    lm_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the key of the model's API.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Try it first: one small completion, on a worker.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Sets the language model, from the next call on; what is left out is unset (everyone's: scope admin).

    The one before is kept: `poolshift lm restore` puts it back, with its key.
    """
    call = sessions.set_lm(
        model,
        session_id=session,
        pool_version=pool_version,
        api_base=api_base,
        api_key=None if lm_key_file is None else key_of_file(lm_key_file),
        temperature=temperature,
        max_tokens=max_tokens,
        check=check,
    )
    try:
        _show(service.ask(call), as_json=as_json)
    except Refused as refusal:
        if refusal.code != "lm_error" or not check:
            raise
        raise CommandFailed(refusal.exit_code, _refused(refusal, lm_key_file)) from None


def _refused(refusal: Refused, lm_key_file: Path | None) -> str:
    """Tells why a trial failed, and the options that may mend it, instead of the advice of a library behind it."""
    said = str(refusal).partition("\n")[0].rstrip()
    key = "--lm-key-file FILE gives its key" if lm_key_file is None else f"the key is that of {lm_key_file}"
    return f"{said} (nothing is changed; {key}, --api-base URL its address, and --no-check sets it untried)"


@app.command("unset")
@on_service
def unset_lm(
    service: Service,
    *,
    session: Session = None,
    pool_version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Gives a session or a version the language model of everyone again, and shows that.

    Without either, everyone has the one of the service's environment again (scope admin).
    """
    if session is not None and pool_version is not None:
        raise typer.BadParameter("either a session or a version", param_hint="--session, --pool-version")
    service.ask(sessions.remove_lm(session, pool_version=pool_version))
    _show(service.ask(sessions.show_lm(session, pool_version=pool_version)), as_json=as_json)


@app.command("restore")
@on_service
def restore_lm(service: Service, *, pool_version: Version = None, as_json: AsJson = False) -> None:
    """Puts back everyone's or a version's language model of before the last change, and shows it (scope admin)."""
    _show(service.ask(sessions.restore_lm(pool_version=pool_version)), as_json=as_json)


def _show(lm: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(lm)
        return
    print_fields(
        {
            "model": lm["model"],
            "address": lm["api_base"],
            "key": "set, not shown" if lm["has_api_key"] else None,
            "temperature": lm["temperature"],
            "max tokens": lm["max_tokens"],
            "set for": lm["set_for"],
            "set by": lm["updated_by"] or "the environment of the service",
            "set": when(lm["updated_at"]),
        }
    )
