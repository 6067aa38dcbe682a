"""`poolshift programs`: creates, lists, shows and deletes programs. Other files have the rest."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from cli.errors import CommandFailed, ExitCode
from cli.output import AsJson, print_json, print_rows, when
from cli.programs.apply import apply_programs
from cli.programs.changes import (
    delete_program,
    demote_program,
    list_deletions,
    promote_program,
    restore_program,
)
from cli.programs.run import OwnDefinition, ProgramId, Session, run_batch, run_program
from cli.programs.view import show
from cli.service import Service, on_service
from poolshift.client import programs

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Creates, shows, runs and deletes programs.")


@app.command("list")
@on_service
def list_programs(
    service: Service,
    *,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="A session whose programs to list; without it the global ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Programs to list at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Lists programs, by creation."""
    found = service.items(programs.listed(session_id=session, limit=limit))
    if as_json:
        print_json(found)
        return
    print_rows(
        ("ID", "TYPE", "ENTRYPOINT", "EXECUTIONS", "LAST EXECUTED", "CREATED"),
        [
            (
                program["id"],
                program["program_type"],
                program["entrypoint"],
                program["execution_count"],
                when(program["last_executed_at"]),
                when(program["created_at"]),
            )
            for program in found
        ],
    )


@app.command("show")
@on_service
def show_program(
    service: Service,
    program_id: ProgramId,
    *,
    session: Session = None,
    pool_version: OwnDefinition = None,
    as_json: AsJson = False,
) -> None:
    """Shows a program and its use, and how V2's own definition differs."""
    show(service.ask(programs.show(program_id, session_id=session, pool_version=pool_version)), as_json=as_json)


@app.command("create")
@on_service
def create_program(
    service: Service,
    file: Annotated[
        Path,
        typer.Argument(
            help="The definition, in JSON, or in YAML by the suffix; - reads JSON from standard input.", allow_dash=True
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Creates a program (exit code 4 if its id is taken)."""
    show(service.ask(programs.create(_definition(file))), as_json=as_json)


app.command("apply")(apply_programs)


app.command("delete")(delete_program)
app.command("deletions")(list_deletions)
app.command("restore")(restore_program)
app.command("run")(run_program)
app.command("batch")(run_batch)


app.command("promote")(promote_program)
app.command("demote")(demote_program)


@app.command("revisions")
@on_service
def list_revisions(
    service: Service,
    program_id: ProgramId,
    *,
    session: Session = None,
    pool_version: OwnDefinition = None,
    limit: Annotated[int, typer.Option(min=1, help="Revisions to list at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Lists the definitions that a program has and had, the newest first; --json has them whole."""
    listing = programs.revisions(program_id, session_id=session, pool_version=pool_version, limit=limit)
    revisions = service.items(listing)
    if as_json:
        print_json(revisions)
        return
    print_rows(
        ("REVISION", "TYPE", "ENTRYPOINT", "WHEN", "WHO"),
        [
            (
                one["revision"],
                one["definition"]["program_type"],
                one["definition"].get("entrypoint"),
                when(one["created_at"]),
                one["created_by"],
            )
            for one in revisions
        ],
    )


def _definition(file: Path) -> dict[str, Any]:
    """Reads JSON, or YAML if the file's name says so."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        definition = yaml.safe_load(text) if file.suffix in (".yaml", ".yml") else json.loads(text)
        json.dumps(definition, allow_nan=False)
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{file}: {error.strerror}") from None
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise CommandFailed(ExitCode.USAGE, f"{file}: {error}") from None
    if not isinstance(definition, dict):
        raise CommandFailed(ExitCode.USAGE, f"{file}: a program is a JSON object")
    return definition
