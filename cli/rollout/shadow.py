"""`poolshift shadow`: what differs between V1's and V2's outputs, on live calls or on inputs that one has."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from analysis.odd_ones import Comparisons, FieldCounts, FieldRow
from cli.errors import CommandFailed, ExitCode
from cli.output import AsJson, print_json, print_rows
from cli.rollout.shadow_page import (
    counts_text,
    failures_sentence,
    html_report,
    markdown_report,
    quality_sentence,
    sentence,
    verdict_text,
)
from cli.service import Service, on_service
from poolshift.client import shadow

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Shows what differs between V1's and V2's outputs.")

MAX_EXAMPLES = 10
_COLUMNS = ("PROGRAM", "FIELD", "COMPARED", "DIFFERING", "NOISE", "DIFFERS", "REALLY DIFFER %")


@app.command("report")
@on_service
def report(
    service: Service,
    program_id: Annotated[
        str | None, typer.Argument(metavar="PROGRAM", help="One program; all by default.", show_default=False)
    ] = None,
    *,
    as_json: AsJson = False,
    form: Annotated[
        Literal["table", "markdown", "html"], typer.Option("--format", help="The report's form, on standard output.")
    ] = "table",
) -> None:
    """Shows the shadow calls: by field what differs, what is noise, and the scores of metrics."""
    found = service.ask(shadow.show_program(program_id) if program_id else shadow.show())
    if as_json:
        print_json(found)
    elif form == "table":
        _print(found)
    else:
        title = f"Shadow calls of {program_id}" if program_id else "Shadow calls"
        print((markdown_report if form == "markdown" else html_report)(title, found))


@app.command("run")
@on_service
def run(
    service: Service,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="INPUTS.jsonl",
            help='JSON lines: inputs of the program, or {"program_id", "inputs", "session_id"}.',
            exists=True,
            dir_okay=False,
        ),
    ],
    *,
    program_id: Annotated[
        str | None, typer.Option("--program", metavar="ID", help="The program of the lines that name none.")
    ] = None,
    as_json: AsJson = False,
    form: Annotated[
        Literal["table", "markdown", "html"], typer.Option("--format", help="The report's form, on standard output.")
    ] = "table",
) -> None:
    """Compares both versions on inputs; exits with 1 if a field differs.

    A field without noise counts at its first difference, a noisy one by its verdict.
    """
    told = _Run()
    for body in _lines(path, program_id):
        program = body.pop("program_id")
        told.take(program, service.ask(shadow.compare(program, body["inputs"], session_id=body.get("session_id"))))
    found = told.summary()
    _refuse_nothing(path, found)
    if as_json:
        print_json(found)
    elif form == "table":
        _print(found)
    else:
        print((markdown_report if form == "markdown" else html_report)(f"V1 and V2 on {path.name}", found))
    if told.differs:
        raise typer.Exit(1)


class _Run:
    """The comparisons of a run, added up."""

    def __init__(self) -> None:
        self._comparisons = Comparisons()
        self._examples: list[dict[str, Any]] = []
        self._differing = 0
        self._failed: Counter[str] = Counter()

    def take(self, program: str, answer: dict[str, Any]) -> None:
        """Adds the comparison of one call."""
        for field, verdict in answer["fields"].items():
            if verdict == "same":
                self._comparisons.same((program, field))
            else:
                self._comparisons.differs((program, field), verdict)
        self._differing += any(verdict != "same" for verdict in answer["fields"].values())
        if answer.get("v1_error") is not None and answer["v1_error"] == answer["v2_error"]:
            self._failed[answer["v1_error"]] += 1
        if answer["example"] is not None:
            self._examples.append(answer["example"])

    @property
    def differs(self) -> bool:
        """True if a field differs, by its verdict or without any sign of noise."""
        counts = self._comparisons.counts().values()
        return any(row.differs for row in self._comparisons.rows()) or any(map(_is_steady, counts))

    def summary(self) -> dict[str, Any]:
        """The report of a run, in the form of the service's."""
        fields = self._comparisons.counts().items()
        by_weight = sorted(self._examples, key=lambda one: -sum(odd == "v2" for odd in one["odd"].values()))
        return {
            "compared": sum(counts.compared for field, counts in fields if field[1] == "$error"),
            "differing": self._differing,
            "shed": 0,
            "shed_reasons": {},
            "failed_alike": dict(self._failed),
            "metric_failures": {},
            "fields": [_field(row) for row in self._comparisons.rows()],
            "quality": None,
            "examples": by_weight[:MAX_EXAMPLES],
        }


def _refuse_nothing(path: Path, found: dict[str, Any]) -> None:
    """Ends a run that proves nothing: a pipeline would take it for a success."""
    if not found["compared"]:
        raise CommandFailed(ExitCode.USAGE, f"{path} has no inputs")
    failed = found["failed_alike"]
    if sum(failed.values()) == found["compared"]:
        told = counts_text(failed)
        raise CommandFailed(ExitCode.USAGE, f"no call had outputs on either version ({told}): are the inputs right?")


def _is_steady(counts: FieldCounts) -> bool:
    """Tells if V2 alone was ever the odd one: little evidence, but no sign that the field is noisy."""
    return counts.v2_odd > 0 and counts.v1_odd == counts.no_odd == 0


def _lines(path: Path, program_id: str | None) -> Iterator[dict[str, Any]]:
    """Yields the body of each line's call, with its program."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                given = json.loads(line, parse_constant=_no_json)
                json.dumps(given, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise CommandFailed(ExitCode.USAGE, f"{path}:{number}: {error}") from None
            if not isinstance(given, dict):
                raise CommandFailed(ExitCode.USAGE, f"{path}:{number}: not an object")
            is_call = isinstance(given.get("inputs"), dict) and given.keys() <= {"program_id", "inputs", "session_id"}
            body = given if is_call else {"inputs": given}
            program = body.get("program_id", program_id)
            if not isinstance(program, str):
                raise CommandFailed(ExitCode.USAGE, f"{path}:{number}: no program_id, and no --program")
            yield {**body, "program_id": program}


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _field(row: FieldRow) -> dict[str, Any]:
    return {
        "program_id": row.program,
        "field": row.field,
        "compared": row.compared,
        "differing": row.differing,
        "noise": row.noise,
        "differs": row.differs,
        "verdict": row.verdict,
        "interval": list(row.interval),
    }


def _print(found: dict[str, Any]) -> None:
    print_rows(
        _COLUMNS,
        [
            (
                row["program_id"],
                row["field"],
                row["compared"],
                row["differing"],
                row["noise"],
                verdict_text(row),
                "{:.2f} to {:.2f}".format(*(100 * end for end in row["interval"])),
            )
            for row in found["fields"]
        ],
    )
    print(sentence(found))
    if (quality := found["quality"]) is not None:
        print(quality_sentence(quality))
    if found["metric_failures"]:
        print(failures_sentence(found["metric_failures"]))
