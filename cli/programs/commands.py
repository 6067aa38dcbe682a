"""`poolshift programs`: creates, lists, shows and deletes programs. `apply` and `run` are in files of their names."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from cli.errors import CommandFailed, ExitCode
from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.programs.apply import apply_programs
from cli.programs.run import OwnDefinition, ProgramId, Session, run_batch, run_program
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
    """Shows a program and its use."""
    _show(service.ask(programs.show(program_id, session_id=session, pool_version=pool_version)), as_json=as_json)


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
    _show(service.ask(programs.create(_definition(file))), as_json=as_json)


app.command("apply")(apply_programs)


@app.command("delete")
@on_service
def delete_program(
    service: Service,
    program_id: ProgramId,
    *,
    session: Session = None,
    pool_version: OwnDefinition = None,
    as_json: AsJson = False,
) -> None:
    """Deletes a program, or takes V2's own definition back; running calls continue."""
    service.ask(programs.delete(program_id, session_id=session, pool_version=pool_version))
    if as_json:
        print_json({"deleted": program_id})
    else:
        print_fields({"deleted": program_id})


app.command("run")(run_program)
app.command("batch")(run_batch)


@app.command("promote")
@on_service
def promote_program(
    service: Service, program_id: ProgramId, *, session: Session = None, as_json: AsJson = False
) -> None:
    """Makes V2's own definition of a program everyone's."""
    _show(service.ask(programs.promote(program_id, session_id=session)), as_json=as_json)


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


def _show(program: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(program)
        return
    signature = program["signature"]
    print_fields(
        {
            "id": program["id"],
            "session": program["session_id"],
            "revision": program["revision"],
            "type": program["program_type"],
            "entrypoint": program["entrypoint"],
            "description": signature["description"],
            "instructions": program["instructions"],
            "inputs": ", ".join(_field(field) for field in signature["inputs"]) or None,
            "outputs": ", ".join(_field(field) for field in signature["outputs"]),
            "idempotent": program["idempotent"],
            "created": when(program["created_at"]),
            "executions": program["execution_count"],
            "last executed": when(program["last_executed_at"]),
        }
    )


def _field(field: dict[str, Any]) -> str:
    default = f" = {json.dumps(field['default'])}" if field["default"] is not None else ""
    return f"{field['name']}{'' if field['required'] else '?'}: {field['type']}{default}"


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
