"""`poolshift shadow`: what differs between V1's and V2's outputs, on live calls or on inputs that one has."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from analysis.odd_ones import Comparisons, FieldId, FieldRow
from cli.errors import CommandFailed, ExitCode
from cli.output import AsJson, print_json, print_rows
from cli.rollout.shadow_page import (
    counts_text,
    failures_sentence,
    html_report,
    markdown_report,
    missing_text,
    quality_sentence,
    sentence,
    verdict_text,
)
from cli.service import Service, on_service
from poolshift.client import shadow

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Shows what differs between V1's and V2's outputs.")

MAX_EXAMPLES = 10
RERUNS = 24
"""Times that an input with a difference runs again at the most, to tell it from noise."""
MAX_OTHERS = 1
"""Such runs in which V2 may not be the odd one; after one more the input is given up."""
KEPT_INPUTS = 8
"""Inputs with a difference that are kept for each field, to run again."""
_COLUMNS = ("PROGRAM", "FIELD", "COMPARED", "DIFFERING", "NOISE", "DIFFERS", "REALLY DIFFER %", "MISSING")


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

    Inputs with a difference that may be noise run again, until that is known.
    """

    def compare(call: Call) -> dict[str, Any]:
        answer: dict[str, Any] = service.ask(shadow.compare(call.program, call.inputs, session_id=call.session))
        return answer

    told = Run()
    for call in _lines(path, program_id):
        told.take(call, compare(call))
    told.confirm(compare)
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


class Call(NamedTuple):
    """A line of the inputs."""

    program: str
    inputs: dict[str, Any]
    session: str | None


class Run:
    """The comparisons of a run, added up.

    A difference of a field is V2's, or V1's noise. The inputs that have it run again on both versions, and on V1 once
    more. Each odd one is a coin that is fair if V2 is no other than V1, however the inputs were chosen. So the coins of
    the runs again count for the verdict, and only for that: they say nothing of the share of inputs that differ.
    """

    def __init__(self) -> None:
        self._comparisons = Comparisons()
        self._coins = Comparisons()
        """The coins of all runs, those again too."""
        self._differed: dict[FieldId, list[Call]] = {}
        """Inputs by the field in which V2 was the odd one."""
        self._examples: list[dict[str, Any]] = []
        self._differing = 0
        self._failed: Counter[str] = Counter()

    def take(self, call: Call, answer: dict[str, Any]) -> None:
        """Adds the comparison of one call."""
        for name, verdict in answer["fields"].items():
            field = (call.program, name)
            if verdict == "same":
                self._comparisons.same(field)
                continue
            self._comparisons.differs(field, verdict)
            self._coins.differs(field, verdict)
            kept = self._differed.setdefault(field, [])
            if verdict == "v2" and len(kept) < KEPT_INPUTS:
                kept.append(call)
        self._differing += any(verdict != "same" for verdict in answer["fields"].values())
        if answer.get("v1_error") is not None and answer["v1_error"] == answer["v2_error"]:
            self._failed[answer["v1_error"]] += 1
        if answer["example"] is not None:
            self._examples.append(answer["example"])

    def confirm(self, compare: Callable[[Call], dict[str, Any]]) -> None:
        """Runs each input in which V2 was the odd one again, until its field differs or it proves noisy."""
        for field, calls in list(self._differed.items()):
            for call in calls:
                self._confirm_one(field, call, compare)

    def _confirm_one(self, field: FieldId, call: Call, compare: Callable[[Call], dict[str, Any]]) -> None:
        others = 0
        for _ in range(RERUNS):
            if field in self._coins.found or others > MAX_OTHERS:
                return
            fields = compare(call)["fields"]
            for name, verdict in fields.items():
                if verdict != "same":
                    self._coins.differs((call.program, name), verdict)
            others += fields.get(field[1]) != "v2"

    @property
    def differs(self) -> bool:
        """True if a field differs."""
        return bool(self._coins.found)

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
            "fields": [_field(self._judged(row)) for row in self._comparisons.rows()],
            "quality": None,
            "examples": by_weight[:MAX_EXAMPLES],
        }

    def _judged(self, row: FieldRow) -> FieldRow:
        """The row of a field with the verdict of all coins."""
        counts = self._coins.counts().get((row.program, row.field))
        if counts is None:
            return row
        differs = (row.program, row.field) in self._coins.found
        is_suspected = counts.is_suspected and not differs
        return replace(row, differs=differs, is_suspected=is_suspected, log_e=counts.log_e, missing=None)


def _refuse_nothing(path: Path, found: dict[str, Any]) -> None:
    """Ends a run that proves nothing: a pipeline would take it for a success."""
    if not found["compared"]:
        raise CommandFailed(ExitCode.USAGE, f"{path} has no inputs")
    failed = found["failed_alike"]
    if sum(failed.values()) == found["compared"]:
        told = counts_text(failed)
        raise CommandFailed(ExitCode.USAGE, f"no call had outputs on either version ({told}): are the inputs right?")


def _lines(path: Path, program_id: str | None) -> Iterator[Call]:
    """Yields the call of each line."""
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
            body: dict[str, Any] = given if is_call else {"inputs": given}
            program = body.get("program_id", program_id)
            if not isinstance(program, str):
                raise CommandFailed(ExitCode.USAGE, f"{path}:{number}: no program_id, and no --program")
            yield Call(program, body["inputs"], body.get("session_id"))


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
        "missing": None if row.missing is None else {"calls": row.missing, "seconds": None},
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
                missing_text(row),
            )
            for row in found["fields"]
        ],
    )
    print(sentence(found))
    if (quality := found["quality"]) is not None:
        print(quality_sentence(quality))
    if found["metric_failures"]:
        print(failures_sentence(found["metric_failures"]))
