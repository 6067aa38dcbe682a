"""`poolshift programs`: create, list, show, run and delete programs; `cli.apply` has `apply`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from cli.apply import apply_programs
from cli.errors import CommandFailed, ExitCode
from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.service import Service, on_service, segment

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Creates, shows, runs and deletes programs.")

ProgramId = Annotated[str, typer.Argument(metavar="ID")]
Session = Annotated[
    str | None,
    typer.Option("--session", metavar="ID", help="A session: its programs come first, then the global ones."),
]


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
    programs = service.items("/programs", limit, session_id=session)
    if as_json:
        print_json(programs)
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
            for program in programs
        ],
    )


@app.command("show")
@on_service
def show_program(service: Service, program_id: ProgramId, *, session: Session = None, as_json: AsJson = False) -> None:
    """Shows a program and its use."""
    _show(service.get(f"/programs/{segment(program_id)}", session_id=session), as_json=as_json)


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
    _show(service.send("POST", "/programs", body=_definition(file)), as_json=as_json)


app.command("apply")(apply_programs)


@app.command("delete")
@on_service
def delete_program(
    service: Service, program_id: ProgramId, *, session: Session = None, as_json: AsJson = False
) -> None:
    """Deletes a program; running calls continue."""
    service.send("DELETE", f"/programs/{segment(program_id)}", params={"session_id": session})
    if as_json:
        print_json({"deleted": program_id})
    else:
        print_fields({"deleted": program_id})


@app.command("run")
@on_service
def run_program(
    service: Service,
    program_id: ProgramId,
    *,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=VALUE", help="An input: a string as it is, any other type as JSON."),
    ] = None,
    inputs_json: Annotated[
        str | None,
        typer.Option("--inputs", metavar="JSON", help="All inputs as a JSON object; - reads standard input."),
    ] = None,
    session: Session = None,
    pool_version: Annotated[Literal["v1", "v2"] | None, typer.Option(help="Forces the version (scope admin).")] = None,
    as_json: AsJson = False,
) -> None:
    """Runs a program once and shows its outputs."""
    path = f"/programs/{segment(program_id)}"
    inputs = _inputs(inputs_json)
    if assignments:
        program = service.get(path, session_id=session)
        types = {field["name"]: field["type"] for field in program["signature"]["inputs"]}
        inputs |= dict(_assigned(assignment, types) for assignment in assignments)
    body = {"inputs": inputs} if session is None else {"inputs": inputs, "session_id": session}
    headers = None if pool_version is None else {"x-pool-version": str(pool_version)}
    answer = service.send("POST", f"{path}/execute", body=body, headers=headers)
    if as_json:
        print_json(answer)
        return
    print_fields({name: _text(value) for name, value in answer["outputs"].items()})
    ran = f"ran on {answer['pool_version']} in {answer['duration_ms']:.10g} ms, execution {answer['execution_id']}"
    print(ran, file=sys.stderr)


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


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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


def _inputs(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    inputs = _json(sys.stdin.read() if text == "-" else text, "--inputs")
    if not isinstance(inputs, dict):
        raise typer.BadParameter("this is no JSON object", param_hint="--inputs")
    return inputs


def _assigned(assignment: str, types: dict[str, str]) -> tuple[str, Any]:
    """Splits NAME=VALUE. A string is taken as it is, so that nobody has to quote it twice."""
    name, is_assignment, value = assignment.partition("=")
    if not is_assignment:
        raise typer.BadParameter(f"{assignment!r} is not NAME=VALUE", param_hint="--input")
    if types.get(name, "string") == "string":
        return name, value
    return name, _json(value, f"--input {name} ({types[name]})")


def _json(text: str, hint: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise typer.BadParameter(f"this is no JSON: {error}", param_hint=hint) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
