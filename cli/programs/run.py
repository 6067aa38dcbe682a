"""`poolshift programs run` and `batch`: running a program once or many times."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import typer

from cli.errors import CommandFailed, ExitCode, printable
from cli.output import AsJson, print_fields, print_json, print_rows, value_text
from cli.service import Service, on_service
from poolshift.client import Event, Execution, Gap, OutputChunk, Progress, StatusChange, executions, programs

_NAMES = {Execution: "result", Progress: "progress", OutputChunk: "output", StatusChange: "status", Gap: "gap"}
"""The names of events, as the service has them."""

ProgramId = Annotated[str, typer.Argument(metavar="ID")]
Session = Annotated[
    str | None,
    typer.Option("--session", metavar="ID", help="A session: its programs come first, then the global ones."),
]
Version = Annotated[Literal["v1", "v2"] | None, typer.Option(help="Forces the version (scope admin).")]
OwnDefinition = Annotated[
    Literal["v2"] | None, typer.Option("--pool-version", help="V2's own definition, instead of everyone's.")
]
Deadline = Annotated[
    float | None, typer.Option("--deadline", min=0.001, help="Seconds for queue and run together, of each execution.")
]
Key = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="KEY", help="Runs the call once, however often it is sent.")
]


class _Options(TypedDict):
    session_id: str | None
    timeout_s: float | None
    pool_version: str | None
    idempotency_key: str | None


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
    pool_version: Version = None,
    deadline: Deadline = None,
    key: Key = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="With --async: an address that is told of the job's end.")
    ] = None,
    streamed: Annotated[bool, typer.Option("--stream", help="Show progress and text as they come.")] = False,
    background: Annotated[bool, typer.Option("--async", help="Start a job, and show its id at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Runs a program once and shows its outputs."""
    _check(is_job=background, is_stream=streamed, has_key=key is not None, has_webhook=webhook is not None)
    inputs = _inputs(inputs_json)
    if assignments:
        program = service.ask(programs.show(program_id, session_id=session))
        types = {field["name"]: field["type"] for field in program["signature"]["inputs"]}
        inputs |= dict(_assigned(assignment, types) for assignment in assignments)
    if streamed:
        call = executions.stream(program_id, inputs, session_id=session, timeout_s=deadline, pool_version=pool_version)
        show_events(service.events(call), as_json=as_json)
        return
    options: _Options = {
        "session_id": session,
        "timeout_s": deadline,
        "pool_version": pool_version,
        "idempotency_key": key,
    }
    if background:
        answer = service.ask(executions.submit(program_id, inputs, webhook=webhook, **options))
    else:
        answer = service.ask(executions.execute(program_id, inputs, **options))
    if as_json:
        print_json(answer)
    elif background:
        print_fields({"job": answer["execution_id"], "status": answer["status"]})
        print(f"poolshift executions wait {answer['execution_id']} shows its outputs", file=sys.stderr)
    else:
        show_execution(answer)


@on_service
def run_batch(
    service: Service,
    program_id: ProgramId,
    file: Annotated[
        Path,
        typer.Argument(help="A JSON list of inputs, or a JSON object of inputs in each line; - is standard input."),
    ],
    *,
    session: Session = None,
    pool_version: Version = None,
    deadline: Deadline = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Runs a program once for each of many inputs (exit code 1 if an item fails; all are tried)."""
    call = executions.batch(
        program_id,
        _items(file),
        session_id=session,
        timeout_s=deadline,
        pool_version=pool_version,
        idempotency_key=key,
    )
    items = service.ask(call)["items"]
    if as_json:
        print_json(items)
    else:
        print_rows(
            ("ITEM", "OUTCOME", "POOL", "MS", "OUTPUTS"),
            [_item_row(number, item) for number, item in enumerate(items, start=1)],
        )
    if any("code" in item for item in items):
        raise typer.Exit(ExitCode.REFUSED)


def _check(*, is_job: bool, is_stream: bool, has_key: bool, has_webhook: bool) -> None:
    """Raises BadParameter for options that do not go together."""
    if has_webhook and not is_job:
        raise typer.BadParameter("a webhook tells of the end of a job: it goes with --async", param_hint="--webhook")
    if is_stream and (is_job or has_key):
        raise typer.BadParameter("a stream is neither a job nor sent twice", param_hint="--stream")


def show_execution(execution: dict[str, Any]) -> None:
    """Shows the outputs on standard output, and the rest beside them."""
    print_fields({name: value_text(value) for name, value in execution["outputs"].items()})
    took = f"{execution['duration_ms']:.10g} ms"
    ran = f"ran on {execution['pool_version']} in {took}, execution {execution['execution_id']}"
    print(ran, file=sys.stderr)


def _item_row(number: int, item: dict[str, Any]) -> tuple[object, ...]:
    if "code" in item:
        return (number, item["code"], item["pool_version"], None, item["detail"])
    outputs = json.dumps(item["outputs"], ensure_ascii=False)
    return (number, "ok", item["pool_version"], round(item["duration_ms"], 1), outputs)


def show_events(events: Iterable[Event], *, as_json: bool) -> None:
    """Shows events as they come: as lines of JSON, or beside the outputs, which are on standard output alone."""
    writing: str | None = None
    for event in events:
        if as_json:
            print(json.dumps(_event_json(event)), flush=True)
        elif isinstance(event, OutputChunk):
            begins = "" if event.field == writing else f"{printable(event.field)}: "
            shown = "\n".join(printable(line) for line in event.chunk.split("\n"))
            print(f"{begins}{shown}", end="", file=sys.stderr, flush=True)
            writing = event.field
        else:
            print(end="" if writing is None else "\n", file=sys.stderr)
            writing = None
            if isinstance(event, Execution):
                show_execution(msgspec.to_builtins(event))
            else:
                told = _event_json(event)
                print(f"{told['event']}: {printable(value_text(told['data']))}", file=sys.stderr, flush=True)


def _event_json(event: Event) -> dict[str, Any]:
    data = event.data if isinstance(event, Progress) else msgspec.to_builtins(event)
    return {"event": _NAMES[type(event)], "data": data}


def _items(file: Path) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(ExitCode.USAGE, f"{file}: {error}") from None
    is_list = text.lstrip().startswith("[")
    items = (
        _json(text, "FILE")
        if is_list
        else [_json(line, f"FILE, line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    )
    if not (isinstance(items, list) and all(isinstance(item, dict) for item in items)):
        raise CommandFailed(ExitCode.USAGE, f"{file}: an item is a JSON object of inputs")
    return items


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
