"""`poolshift keys`: creates, lists and revokes API keys in the file that a service reads."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandFailed, ExitCode
from cli.key_file import add_key, entry_of, keys_in, remove_key, to_yaml
from cli.output import AsJson, print_fields, print_json, print_rows
from config.api_keys import KeyFile, Scope, StoredKey, hash_key, new_key

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Creates, lists and revokes API keys.")

File = Annotated[Path, typer.Option("--file", envvar="API_KEYS_FILE", help="The key file.")]


@app.command("create")
def create_key(
    *,
    name: Annotated[str, typer.Option(help="Name of the key; the rollout's history shows it.")],
    scopes: Annotated[
        list[Scope],
        typer.Option("--scope", help="A right; admin includes all, operate includes observe."),
    ],
    owner: Annotated[
        str | None,
        typer.Option(
            help="Owner of what the key makes; by default, sessions and jobs are the key's, and programs everyone's."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", envvar="API_KEYS_FILE", help="The key file; without one the command shows the entry."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Creates a key and prints it once: the file keeps only its hash (exit code 4 if the name is taken)."""
    for option, value in (("--name", name), ("--owner", name if owner is None else owner)):
        if not 1 <= len(value) <= 128 or not value.isprintable():
            raise typer.BadParameter("a name has 1 to 128 printable characters", param_hint=option)
    key = new_key()
    stored = StoredKey(name=name, hash=hash_key(key), scopes=frozenset(scopes), owner=owner)
    if file is not None:
        add_key(file, stored)
    if as_json:
        entry = entry_of(stored)
        print_json({"key": key, "entry": entry, "file": None if file is None else str(file)})
        return
    print(key)
    told = (
        f"{file} has its hash" if file is not None else f"what API_KEYS_FILE needs:\n{to_yaml(KeyFile(keys=(stored,)))}"
    )
    print(f"This key is not shown again; {told}", file=sys.stderr)


@app.command("list")
def list_keys(*, file: File, as_json: AsJson = False) -> None:
    """Lists the names of the keys and their scopes."""
    keys = keys_in(file)
    if as_json:
        entries = [entry_of(key) for key in keys]
        print_json([{name: value for name, value in entry.items() if name != "hash"} for entry in entries])
    else:
        print_rows(("NAME", "SCOPES"), [(_who(key), ", ".join(sorted(key.scopes))) for key in keys])


@app.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")],
    *,
    file: File,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    last_admin: Annotated[
        bool, typer.Option("--last-admin", help="Revokes it even if no key with the scope admin is left.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Removes a key from the file (exit code 1 if no key has that name, or if it is the last admin's).

    A terminal is asked before the file has no key at all.
    """
    if not yes and sys.stdin.isatty() and [key.name for key in keys_in(file)] == [name]:
        typer.confirm(f"{file} has no other key, and nobody could do anything: revoke {name}?", abort=True, err=True)
    if not remove_key(file, name, may_be_last=last_admin):
        raise CommandFailed(ExitCode.REFUSED, f"{file}: no key is named {name!r}")
    if as_json:
        print_json({"revoked": name})
    else:
        print_fields({"revoked": name})


def _who(key: StoredKey) -> str:
    return key.name if key.owner in (None, key.name) else f"{key.name} (of {key.owner})"
